"""HRank against golden numbers: ranks of feature maps, their running mean, the filters kept, and the masks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from shapeshift import prune
from shapeshift.prune.filters import lowest
from shapeshift.prune.ranks import matrix_ranks
from tests.golden import golden
from tests.tolerances import assert_close

ARRAYS = golden("hrank")
BATCHES = range(int(ARRAYS["num_batches"]))
RATES = ARRAYS["rates"].tolist()


def as_tensor(name: str) -> Tensor:
    return torch.from_numpy(ARRAYS[name])


def kept(scores: Tensor, rate: float) -> Tensor:
    mask = torch.ones(len(scores), dtype=torch.int64)
    mask[lowest(scores, rate)] = 0
    return mask


@pytest.mark.parametrize("batch", BATCHES)
def test_golden_ranks(batch: int) -> None:
    maps = as_tensor(f"maps{batch}")
    assert len(maps) == ARRAYS["batch_sizes"][batch]
    assert torch.equal(matrix_ranks(maps), as_tensor(f"ranks{batch}"))


@pytest.mark.parametrize("last", BATCHES)
def test_golden_running_mean(last: int) -> None:
    model = nn.Sequential(nn.Identity())
    batches = [as_tensor(f"maps{batch}") for batch in range(last + 1)]
    found = prune.feature_ranks(model, batches, ["0"], progress=False)
    assert_close(found["0"], as_tensor(f"mean_after{last}"), "reordered")


@pytest.mark.parametrize("filters", [16, 50, 100])
@pytest.mark.parametrize("row", range(len(RATES)), ids=[f"{rate:g}" for rate in RATES])
def test_golden_filters(filters: int, row: int) -> None:
    mask = kept(as_tensor(f"syn{filters}_rank"), RATES[row])
    assert torch.equal(mask, as_tensor(f"syn{filters}_mask")[row])
    assert filters - mask.sum() == ARRAYS[f"syn{filters}_pruned"][row]


@pytest.mark.parametrize("row", range(len(RATES)), ids=[f"{rate:g}" for rate in RATES])
def test_golden_filters_of_measured_ranks(row: int) -> None:
    mask = kept(as_tensor(f"mean_after{BATCHES[-1]}"), RATES[row])
    assert torch.equal(mask, as_tensor("from_maps_mask")[row])
    assert len(mask) - mask.sum() == ARRAYS["from_maps_pruned"][row]


@pytest.mark.parametrize("row", range(len(RATES)), ids=[f"{rate:g}" for rate in RATES])
def test_golden_filters_of_equal_ranks(row: int) -> None:
    assert torch.equal(kept(as_tensor("tie_rank"), RATES[row]), as_tensor("tie_mask_stable")[row])
    assert len(lowest(as_tensor("tie_rank"), RATES[row])) == ARRAYS["tie_pruned"][row]


def test_golden_masks_of_two_layers() -> None:
    blocks = [
        layer
        for inputs, outputs in ((3, 10), (10, 7))
        for layer in (nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())
    ]
    model = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 2)).double()
    originals = [parameter for layer in (model[0], model[1], model[3], model[4]) for parameter in layer.parameters()]
    for number, parameter in enumerate(originals):
        parameter.data.copy_(as_tensor(f"chain_param{number}"))
    ranks = {"0": as_tensor("chain_rank1"), "3": as_tensor("chain_rank2")}
    images = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    masked = prune.hrank(model, [images], ARRAYS["chain_rates"].tolist(), mask=True, ranks=ranks)
    found = [parameter for layer in (masked[0], masked[1], masked[3], masked[4]) for parameter in layer.parameters()]
    for number, parameter in enumerate(found):
        assert torch.equal(parameter.data, as_tensor(f"chain_masked{number}"))
        assert torch.equal(originals[number].data, as_tensor(f"chain_param{number}"))
