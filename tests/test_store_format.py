"""The formats of a store: what is rounded stays, what is packed comes back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from shapeshift.store_format import BLOCK, STORE_FORMATS, StoreFormat

every_format = pytest.mark.parametrize("store", STORE_FORMATS)
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def drawn(numel: int, dtype: torch.dtype, std: float = 0.05) -> Tensor:
    rng = torch.Generator().manual_seed(numel)
    # Deviations from block to block over many orders of magnitude, so that scales meet every mantissa.
    stds = std * torch.exp(torch.randn(-(-numel // BLOCK), 1, generator=rng))
    values = torch.randn(len(stds), BLOCK, generator=rng, dtype=torch.float64) * stds
    return values.flatten()[:numel].to(dtype)


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


def assert_kept(store: StoreFormat, values: Tensor) -> Tensor:
    """Assert that rounded values are rounded to themselves and come back from a file, bit by bit."""
    rounded = store.round(values)
    assert (rounded.shape, rounded.dtype) == (values.shape, values.dtype)
    assert torch.equal(bits(store.round(rounded)), bits(rounded))
    for source in (values, rounded):
        packed = store.pack(source)
        assert (packed.dtype, packed.shape) == (torch.uint8, (store.num_bytes(values.numel(), values.dtype),))
        assert torch.equal(bits(store.unpack(packed, values.shape, values.dtype)), bits(rounded))
    return rounded


@every_format
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("numel", [1, 2, 3, 5, 63, 64, 65, 130, 20_000 * BLOCK])
def test_rounded_values_stay_and_come_back(store: str, dtype: torch.dtype, numel: int) -> None:
    assert_kept(STORE_FORMATS[store], drawn(numel, dtype).view(numel, 1))


@every_format
@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_values(store: str, dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    for value in (0.0, limits.tiny, limits.smallest_normal / 3, 1e-30, 2.0**-118, 3e-5, 1e4, 1e30):
        values = torch.linspace(-1, 1, BLOCK, dtype=torch.float64).mul(min(value, limits.max / 2)).to(dtype)
        if store == "float16" and dtype.itemsize > 2 and values.max() > torch.finfo(torch.float16).max:
            assert not STORE_FORMATS[store].round(values).isfinite().any()
        else:
            assert assert_kept(STORE_FORMATS[store], values).isfinite().all()


@every_format
def test_values_that_are_not_finite_are_not_hidden(store: str) -> None:
    for value in (float("nan"), float("inf")):
        values = torch.ones(2 * BLOCK)
        values[3] = value
        found = STORE_FORMATS[store]
        again = found.unpack(found.pack(values), values.shape, values.dtype)
        for rounded in (found.round(values), again):
            assert not rounded[:BLOCK].isfinite().all()
            assert rounded[BLOCK:].isfinite().all()


@pytest.mark.parametrize("store", ["bfloat16", "float16"])
def test_floats_are_rounded_to_the_nearest(store: str) -> None:
    found = STORE_FORMATS[store]
    values = drawn(1000 * BLOCK, torch.float32)
    values = values[values.abs() > 1e-4]
    ties = torch.linspace(1, 2, 2**12 + 1)
    for entries in (values, values.double(), ties):
        errors = (found.round(entries) - entries).abs()
        nearest = (entries.to(getattr(torch, store)).to(entries.dtype) - entries).abs()
        assert (errors <= nearest).float().mean() > 0.999  # the others lie just below a power of two
        assert (errors <= torch.finfo(getattr(torch, store)).eps * entries.abs()).all()


@pytest.mark.parametrize(("store", "bound"), [("bfloat16", 2e-3), ("float16", 3e-4), ("int8", 7e-3), ("int6", 0.03)])
def test_the_error_is_that_of_the_bits(store: str, bound: float) -> None:
    values = drawn(100 * BLOCK, torch.float32)
    error = (STORE_FORMATS[store].round(values) - values).norm() / values.norm()
    assert 0 < error < bound


def test_the_bytes_of_an_entry() -> None:
    sizes = {store: found.num_bytes(64_000, torch.float32) / 64_000 for store, found in STORE_FORMATS.items()}
    assert sizes == {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1.03125, "int6": 0.78125, "int4": 0.53125}


@every_format
def test_gradients_pass_straight_through_twice(store: str) -> None:
    values = drawn(100, torch.float32).requires_grad_()
    rounded = STORE_FORMATS[store].straight_through(values)
    assert torch.equal(rounded, STORE_FORMATS[store].round(values.detach()))
    (first,) = torch.autograd.grad((rounded**3).sum(), values, create_graph=True)
    assert torch.equal(first, 3 * rounded**2)
    (second,) = torch.autograd.grad(first.sum(), values)
    assert torch.equal(second, 6 * rounded)


def test_noise_rounds_a_random_half() -> None:
    values = drawn(1000, torch.float32).requires_grad_()
    found = STORE_FORMATS["int8"].straight_through(values, noise=True)
    rounded = STORE_FORMATS["int8"].round(values.detach())
    is_rounded, is_kept = found == rounded, found == values
    assert (is_rounded | is_kept).all()
    assert 400 < is_rounded.sum() < 600
    found.sum().backward()
    assert (values.grad == 1).all()
