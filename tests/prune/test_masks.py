"""Masked filters: zero through training and loading, and removed later."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import shapeshift
from shapeshift import prune
from tests.prunable import images, livened, small_resnet, state_of
from tests.tolerances import assert_close


def momentum(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=1e-2)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"SGD": momentum, "AdamW": torch.optim.AdamW}


def zero_filters(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: module.weight.flatten(1).abs().sum(1) == 0
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    }


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), lambda model: model]
)
def test_masks_hold_in_training(optimizer: str, copied: Callable[[nn.Module], nn.Module]) -> None:
    x = images(16)
    masked = copied(prune.hrank(small_resnet(), [x], 0.5, progress=False, mask=True)).train()
    zeros = zero_filters(masked)
    assert [int(found.sum()) for found in zeros.values()] == [len(found) // 2 for found in zeros.values()]
    before = state_of(masked)
    stepping = OPTIMIZERS[optimizer](masked.parameters())
    for _ in range(3):
        stepping.zero_grad()
        F.cross_entropy(masked(x), torch.tensor([1, 2])).backward()
        stepping.step()
        for name, found in zero_filters(masked).items():
            assert torch.equal(found, zeros[name])
    assert not torch.equal(masked.stem.weight, before["stem.weight"])
    assert torch.equal(masked.norm.weight == 0, zeros["stem"])
    assert torch.equal(masked.norm.bias == 0, zeros["stem"])
    # The next layer's weights for a masked channel are left alone.
    assert (masked.stages[0][0].conv1.weight[~zeros["stages.0.0.conv1"]][:, zeros["stem"]] != 0).all()


def test_what_was_masked_can_be_removed() -> None:
    model, x = livened(small_resnet()), images()
    masked = prune.hrank(model, [x], 0.5, progress=False, mask=True).eval()
    assert prune.rate_for(masked, [x], macs=0.5) == prune.rate_for(model, [x], macs=0.5)
    pruned = prune.hrank(masked, [x], 0.5, progress=False)
    assert_close(pruned(x), masked(x), "reordered")
    assert torch.equal(pruned.stem.weight, masked.stem.weight[masked.stem.weight.flatten(1).any(1)])


def test_what_is_masked_is_removed_before_it_is_compressed() -> None:
    model, x = small_resnet(), images()
    masked = prune.hrank(model, [x], 0.5, progress=False, mask=True)
    before = state_of(masked)
    wrapped = nn.Sequential(masked)
    for refused in (masked, wrapped):
        for call in (lambda model: shapeshift.compress(model, "50%"), shapeshift.recurrence.soft_share):
            with pytest.raises(
                shapeshift.ModelError, match=r"ResNet\) has masked filters.*hrank\(model, loader, rate\) without mask"
            ):
                call(refused)
    with pytest.raises(shapeshift.ModelError, match=r"ResNet has masked filters.*keep its state_dict"):
        shapeshift.save(masked, "nowhere")
    assert_close(state_of(masked), before, "identical")
    pruned = prune.hrank(masked, [x], 0.5, progress=False)
    shapeshift.compress(pruned, "50%")
    assert pruned(x).isfinite().all()


def test_masks_return_after_values_were_loaded() -> None:
    model, x = livened(small_resnet()), images(16)
    masked = prune.hrank(model, [x], 0.5, progress=False, mask=True).eval()
    expected, zeros = masked(x), zero_filters(masked)
    masked.load_state_dict(model.state_dict())
    assert not zero_filters(masked)["stem"].any()
    assert torch.equal(masked(x), expected)
    assert torch.equal(zero_filters(masked)["stem"], zeros["stem"])
