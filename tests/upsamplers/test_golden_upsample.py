"""Parameter upsampling against golden numbers: values, gradients, starting values and the rule for smaller shapes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from shapeshift.upsamplers import Upsampler
from shapeshift.upsamplers.inter import Inter, in_shape
from shapeshift.upsamplers.mask import Mask
from shapeshift.upsamplers.repeat import Repeat
from shapeshift.upsamplers.weighted import WeightedHalves
from tests.golden import Arrays, cases, table
from tests.tolerances import assert_close


def by_case(kind: str) -> pytest.MarkDecorator:
    found = cases("ssn_upsample", kind, f"num_{kind}")
    return pytest.mark.parametrize("case", found, ids=[f"{kind}{number}" for number in range(len(found))])


def as_tensor(case: Arrays, name: str) -> Tensor:
    return torch.from_numpy(case[name])


def build(kind: type[Upsampler], size: int, case: Arrays) -> Upsampler:
    return kind(size, case["shape"].tolist()).double()


def assert_weight_and_gradients(upsampler: Upsampler, case: Arrays, own: nn.Parameter | None = None) -> None:
    """Compare the weight, and the gradients of its product with ``G``, with those of a case.

    The published implementations leave out the end of the source: its gradient has to be zero there.
    """
    theta = as_tensor(case, "theta")
    source = theta[: upsampler.size].clone().requires_grad_()
    if own is not None:
        # What the weight does not read of the published parameters has no gradient, and ours do not hold it.
        own.data.copy_(as_tensor(case, "up_weights").flatten()[: len(own)])
    weight = upsampler(source)
    (weight * as_tensor(case, "G")).sum().backward()

    assert source.grad is not None
    assert_close(weight.detach(), as_tensor(case, "weight"), "golden")
    assert_close(padded(source.grad, len(theta)), as_tensor(case, "dtheta"), "golden")
    if own is not None:
        assert own.grad is not None
        expected = as_tensor(case, "dup_weights").flatten()
        assert_close(padded(own.grad, len(expected)), expected, "golden")


def padded(values: Tensor, length: int) -> Tensor:
    return torch.cat([values, values.new_zeros(length - len(values))])


@pytest.mark.parametrize("row", table("ssn_upsample"), ids=lambda row: f"{row['layer_shape']} from {row['num_params']}")
def test_golden_in_shapes(row: Arrays) -> None:
    shape = [extent for extent in row["layer_shape"].tolist() if extent]
    found = in_shape(shape, int(row["num_params"]), int(row["K"]))
    if row["status"] < 0:
        assert found is None
    else:
        assert found == tuple(row["in_shape"])[: len(shape)]
        assert (found == tuple(shape)) == (row["status"] == 0)


@by_case("inter")
def test_golden_inter(case: Arrays) -> None:
    shape, size = case["shape"].tolist(), math.prod(case["in_shape"].tolist())
    assert Inter.source_size(shape, len(case["theta"])) == size
    assert in_shape(shape, len(case["theta"])) == in_shape(shape, size) == tuple(case["in_shape"])
    assert_weight_and_gradients(build(Inter, size, case), case)


@by_case("mask")
def test_golden_mask(case: Arrays) -> None:
    length = 9 * int(case["window"])
    windowed = type("WindowedMask", (Mask,), {"window": length})
    mask = build(windowed, len(case["theta"]) // length * length, case)
    assert isinstance(mask, Mask)
    assert (mask.copies, mask.length) == (case["mult"], length)
    assert_weight_and_gradients(mask, case, mask.masks)

    mask.float().reset_parameters(None)
    assert_close(mask.masks.detach(), as_tensor(case, "init_weights").float()[: len(mask.masks)], "identical")


@by_case("repeat")
def test_golden_repeat(case: Arrays) -> None:
    length = 9 * int(case["window"])
    assert_weight_and_gradients(build(Repeat, len(case["theta"]) // length * length, case), case)


@by_case("wavg")
def test_golden_wavg(case: Arrays) -> None:
    weighted = build(WeightedHalves, len(case["theta"]) // 2 * 2, case)
    assert isinstance(weighted, WeightedHalves)
    assert_weight_and_gradients(weighted, case, weighted.coefficients)
