"""Reentrant checkpointing under DDP: a shared parameter gets several gradients in one backward pass."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import shapeshift
from tests.joint_batch import Blocks, data
from tests.models import gradients
from tests.processes import needs_gloo
from tests.tolerances import assert_close

pytestmark = needs_gloo


@pytest.fixture(autouse=True)
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def build(use_reentrant: bool | None) -> Blocks:
    return shapeshift.compress(Blocks(use_reentrant), 0.6, seed=0)


def test_without_static_graph_torch_names_it() -> None:
    model = DistributedDataParallel(build(True))
    with pytest.raises(RuntimeError, match=r"(?s)use _set_static_graph\(\) .* shapeshift\.all\.store\.0"):
        gradients(model, data()[:1])


@pytest.mark.parametrize(("use_reentrant", "static_graph"), [(True, True), (False, False), (False, True)])
def test_what_it_names_has_the_gradients_of_the_model_alone(use_reentrant: bool, static_graph: bool) -> None:
    model, plain = build(use_reentrant), build(None)
    plain.load_state_dict(model.state_dict())
    expected = gradients(plain, data()[:1])
    wrapped = DistributedDataParallel(model, static_graph=static_graph)
    found = {name.removeprefix("module."): gradient for name, gradient in gradients(wrapped, data()[:1]).items()}
    assert_close(found, expected, "reordered gradient")
