"""Tensors that are dropped and made again have the values that they have without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shapeshift.running import remaking
from shapeshift.running.remaking import Remaking

# The least bytes of what is dropped, and the bytes that are kept: everything, some, and what the defaults drop.
BOUNDS = [(1, 0), (1, 10_000), (4_000, 0), (None, None)]


def computed() -> list[Tensor]:
    base = torch.randn(40, 40) * 0.02
    return [base, base[:20] + base[20:], torch.cat([base, torch.ones(8, 40)]).softmax(1), base @ base.t()]


def changed_in_place() -> list[Tensor]:
    weight = torch.empty(40, 30)
    weight.normal_()
    for row in range(40):
        weight[row] = row
    weight[:, 3:5].uniform_()
    weight.t()[7].zero_()
    weight.div_(3).add_(weight.clone(), alpha=2)
    weight.view(30, 40).copy_(weight.view(30, 40).flip(0))
    return [weight]


def initialised() -> list[Tensor]:
    weight = torch.empty(40, 30)
    fills = [nn.init.orthogonal_, nn.init.trunc_normal_, nn.init.xavier_uniform_, nn.init.kaiming_normal_]
    fills += [lambda tensor: nn.init.sparse_(tensor, 0.3), nn.init.eye_]
    return [fill(weight.clone()) for fill in fills] + [nn.init.dirac_(torch.empty(20, 20, 3))]


def layers() -> list[Tensor]:
    modules = [
        nn.Embedding(50, 20, padding_idx=3),
        nn.LSTM(20, 30, 2),
        nn.MultiheadAttention(32, 4),
        nn.Conv2d(8, 8, 3),
    ]
    modules.append(nn.utils.parametrizations.weight_norm(nn.Linear(30, 30)))
    modules[2].load_state_dict({name: value * 2 for name, value in modules[2].state_dict().items()})
    return [tensor for module in modules for tensor in module.state_dict().values()]


def drawn_by_generators() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(40, 40, generator=generator), torch.empty(40, 40).normal_(generator=generator), torch.rand(40)]


def several_at_once() -> list[Tensor]:
    tensors = [torch.randn(30, 30), torch.rand(40, 20)]
    torch._foreach_mul_(tensors, 2.0)
    torch._foreach_add_(tensors[:1], [tensors[0]])
    halves = torch.randn(40, 40).chunk(2)
    halves[0].add_(halves[1])
    return [*tensors, *halves]


def given_a_place() -> list[Tensor]:
    first, second = torch.randn(30, 30), torch.empty(0)
    torch.mul(first, 3, out=second)
    torch.add(second, first, out=first)
    return [first, second, torch.randn(4).resize_(50, 50).fill_(2), first.clone().t_()]


def of_other_dtypes() -> list[Tensor]:
    torch.set_default_dtype(torch.bfloat16)
    try:
        made = torch.randn(40, 40)
    finally:
        torch.set_default_dtype(torch.float32)
    layer = nn.Linear(40, 40).double()
    return [made, layer.weight.detach(), layer.half().weight.detach(), torch.randint(9, (50, 50)), torch.eye(40) > 0]


def from_elsewhere() -> list[Tensor]:
    array = np.arange(900.0).reshape(30, 30)
    weight = nn.Parameter(torch.empty(30, 30, dtype=torch.float64))
    weight.data.copy_(torch.from_numpy(array))
    return [weight.detach().mul(2), torch.tensor(array.tolist()), torch.from_numpy(array) + 1]


def reached_past_the_operations() -> list[Tensor]:
    first, second, third, fourth = (torch.randn(40, 40) for _ in range(4))
    first.numpy()[3] = 7
    np.asarray(second)[:] += 1
    third.map_(first, lambda mine, other: mine + other)
    listed = torch.tensor(fourth.tolist())
    torch.randn(50, 50).add_(1)  # which drops the others
    first.numpy()[4] = first.sum().item()
    return [first, second, third, listed, fourth.apply_(abs)]


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize(
    "make",
    [
        computed,
        changed_in_place,
        initialised,
        layers,
        drawn_by_generators,
        several_at_once,
        given_a_place,
        of_other_dtypes,
        from_elsewhere,
        reached_past_the_operations,
    ],
)
@pytest.mark.filterwarnings("ignore:.*out.*resized:UserWarning")
def test_every_tensor_is_the_same_to_the_last_bit(make: Callable[[], list[Tensor]], bounds: tuple[Any, Any]) -> None:
    torch.manual_seed(0)
    expected, then = make(), torch.rand(3)
    torch.manual_seed(0)
    with Remaking(*bounds) as context, context.recording():
        found, afterwards = make(), torch.rand(3)
        for tensor in found:  # read in between, and dropped again
            tensor.sum()
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.stride() == other.stride()
        assert torch.equal(one, other)
    assert torch.equal(afterwards, then)


def test_tensors_are_dropped_down_to_the_bound() -> None:
    with Remaking(least_bytes=1_000, kept_bytes=9_000) as context, context.recording():
        tensors = [torch.randn(1_000) for _ in range(10)]
        tensors[0].add_(1)
        # The two of 4,000 bytes that were used last fit the bound, beside the one that was just used.
        is_kept = [not large.is_dropped for large in context.known.values()]
        assert is_kept == [True] + [False] * 7 + [True] * 2
    assert [tensor.untyped_storage().nbytes() for tensor in tensors] == [4_000] * 10


def test_a_tensor_whose_memory_is_asked_for_is_kept() -> None:
    with Remaking(1, 0) as context, context.recording():
        weight, other = torch.ones(40, 40), torch.ones(40, 40)
        address = weight.data_ptr()
        other.add_(torch.ones(40, 40))
        assert weight.data_ptr() == address
        weight.zero_()
        other.add_(1)
        assert [large.is_dropped for large in context.known.values() if not large.is_gone] == [False, False]
        torch.ones(40, 40)
        assert [large.is_dropped for large in context.known.values() if not large.is_gone] == [False, True]
    assert weight.data_ptr() == address


@pytest.mark.parametrize("least_bytes", [1, 200, 10_000])
def test_what_is_made_outside_of_a_recording_is_kept(least_bytes: int) -> None:
    before = torch.randn(40, 40)
    copied = before.clone()
    with Remaking(least_bytes, 0) as context:
        with context.recording():
            inside = torch.zeros(40, 40)
            copy = before + 1
            before[0].mul_(2)
            same = torch.ops.aten._unsafe_view(before[1], (20, 2))
        after = inside + before
        made_again = [large for large in context.known.values() if large.step is not None]
        assert len(made_again) == (least_bytes < 10_000)
    copied[0] *= 2
    assert torch.equal(before, copied)
    assert torch.equal(same.flatten(), copied[1])
    copied[0] /= 2
    assert torch.equal(copy, copied + 1)
    assert torch.equal(after, before)


def test_after_an_error_there_is_memory_without_values() -> None:
    def fail() -> None:
        with Remaking(1, 0) as context, context.recording():
            tensors.extend([torch.ones(40, 40), torch.ones(40, 40)])
            raise ZeroDivisionError

    tensors: list[Tensor] = []
    with pytest.raises(ZeroDivisionError):
        fail()
    assert all(tensor.shape == (40, 40) for tensor in tensors)
    assert all(tensor.untyped_storage().nbytes() == 6_400 for tensor in tensors)


def test_an_operation_that_fails_leaves_the_values() -> None:
    torch.manual_seed(0)
    expected = torch.randn(40, 40)
    torch.manual_seed(0)
    with Remaking(1, 0) as context, context.recording():
        found = torch.randn(40, 40)
        for _ in range(2):
            torch.ones(40, 40).add_(1)
            with pytest.raises(RuntimeError):
                found.normal_(std=-1)
    assert torch.equal(found, expected)


def test_what_nothing_refers_to_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with Remaking(1, 0) as context, context.recording():
        tensors = [torch.ones(40, 40), torch.zeros(40, 40), torch.ones(40, 40)]
        made: list[object] = []
        make = remaking._make
        monkeypatch.setattr(remaking, "_make", lambda *arguments: made.append(make(*arguments)))
        del tensors[0]
        assert not made
    assert len(made) == 1  # the last one is not dropped


def test_many_tensors_come_and_go() -> None:
    with Remaking(1, 0) as context, context.recording():
        for _ in range(2_500):
            torch.ones(10)
        assert len(context.known) <= 2 * context._next_cleaning
        assert len(context.known) < 1_500


def test_the_bounds_are_those_of_the_module() -> None:
    context = Remaking()
    assert (context.least_bytes, context.kept_bytes) == (remaking.LEAST_BYTES, remaking.KEPT_BYTES)
