"""HRank against golden numbers: ranks of feature maps, their running mean, the filters kept, and the masks."""

from __future__ import annotations

import itertools
import re

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
# The f of every array syn{f}_rank.
FILTERS = sorted(int(found[1]) for found in map(re.compile(r"syn(\d+)_rank").fullmatch, ARRAYS) if found)
LAYERS = range(1, 1 + sum(name.startswith("chain_rank") for name in ARRAYS))


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


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("row", range(len(RATES)), ids=[f"{rate:g}" for rate in RATES])
def test_golden_filters(filters: int, row: int) -> None:
    mask = kept(as_tensor(f"syn{filters}_rank"), RATES[row])
    assert torch.equal(mask, as_tensor(f"syn{filters}_mask")[row])
    assert len(mask) == filters
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


@pytest.mark.parametrize("row", range(len(RATES)), ids=[f"{rate:g}" for rate in RATES])
def test_golden_filters_whatever_the_order_of_equal_ranks(row: int) -> None:
    ranks, expected = as_tensor("tie_rank"), as_tensor("tie_mask_reference")[row].bool()
    mask = kept(ranks, RATES[row]).bool()
    assert mask.sum() == expected.sum()
    assert torch.equal(ranks[mask].sort().values, ranks[expected].sort().values)


def test_golden_masks_of_a_chain_of_layers() -> None:
    parameters = [as_tensor(f"chain_param{number}") for number in range(4 * len(LAYERS))]
    blocks = []
    for weight in parameters[::4]:
        outputs, inputs, side, _ = weight.shape
        blocks += [nn.Conv2d(inputs, outputs, side, padding=side // 2), nn.BatchNorm2d(outputs), nn.ReLU()]
    model = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(outputs, 2)).double()
    originals = parameters_of_blocks(model)
    for parameter, value in zip(originals, parameters, strict=True):
        parameter.data.copy_(value)
    ranks = {str(3 * (layer - 1)): as_tensor(f"chain_rank{layer}") for layer in LAYERS}
    images = torch.randn(1, blocks[0].in_channels, 8, 8, dtype=torch.float64)
    masked = prune.hrank(model, [images], ARRAYS["chain_rates"].tolist(), mask=True, ranks=ranks)
    for number, parameter in enumerate(parameters_of_blocks(masked)):
        assert torch.equal(parameter.data, as_tensor(f"chain_masked{number}"))
        assert torch.equal(originals[number].data, parameters[number])


def parameters_of_blocks(model: nn.Sequential) -> list[nn.Parameter]:
    """Return the parameters of all convolutions and batch norms, in order."""
    layers = (layer for layer in model if isinstance(layer, nn.Conv2d | nn.BatchNorm2d))
    return list(itertools.chain.from_iterable(layer.parameters() for layer in layers))
