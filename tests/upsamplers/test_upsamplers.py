"""What every upsampler promises, and what those of the papers do where the papers are silent."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shapeshift.upsamplers import UPSAMPLERS, Upsampler, tile
from shapeshift.upsamplers.inter import Inter, in_shape
from shapeshift.upsamplers.mask import Mask
from shapeshift.upsamplers.repeat import Repeat
from shapeshift.upsamplers.weighted import WeightedHalves
from tests.tolerances import assert_close

every_upsampler = pytest.mark.parametrize("name", list(UPSAMPLERS))
positions = st.floats(0, 1, exclude_max=True)


def shapes(longest: int) -> st.SearchStrategy[list[int]]:
    axes = st.integers(1, longest)
    kernel = st.lists(st.integers(1, 5), max_size=2)
    return st.builds(lambda out, into, kernel: [out, into, *kernel], axes, axes, kernel).filter(
        lambda shape: math.prod(shape) > 1
    )


def less_than(shape: list[int], position: float) -> int:
    """Choose a number of numbers between one and less than the weight holds."""
    return 1 + int(position * (math.prod(shape) - 1))


def build(kind: type[Upsampler], size: int, shape: list[int], seed: int = 0) -> Upsampler:
    upsampler = kind(size, shape).double()
    upsampler.reset_parameters(torch.Generator().manual_seed(seed))
    return upsampler


def numbers(size: int) -> Tensor:
    return torch.randn(size, dtype=torch.float64)


@every_upsampler
@settings(deadline=None)
@given(shape=shapes(12), position=positions)
def test_a_weight_is_linear_in_a_source_without_dead_numbers(name: str, shape: list[int], position: float) -> None:
    kind = UPSAMPLERS[name]
    available = less_than(shape, position)
    size = kind.source_size(shape, available)
    assert 1 <= size <= available
    assert kind.source_size(shape, size) == size
    upsampler = build(kind, size, shape)
    a, b = numbers(size).requires_grad_(), numbers(size)

    weight = upsampler(a)
    assert weight.shape == tuple(shape)
    assert_close(upsampler(a - 3 * b), weight - 3 * upsampler(b), "double")

    (weight * numbers(math.prod(shape)).view(shape)).sum().backward()
    trained = dict(upsampler.named_parameters())
    assert sum(parameter.numel() for parameter in trained.values()) == kind.num_parameters(size, shape)
    for values in (a, *trained.values()):
        assert values.grad is not None
        assert (values.grad != 0).all()


@every_upsampler
def test_as_many_numbers_as_are_used_are_used_again(name: str) -> None:
    kind = UPSAMPLERS[name]
    for shape in ([64, 32, 3, 3], [64, 64, 3, 3]):
        for available in range(11_000, 11_100):
            size = kind.source_size(shape, available)
            assert kind.source_size(shape, size) == size


@every_upsampler
@settings(deadline=None)
@given(shape=shapes(700), position=positions)
def test_the_share_of_the_numbers_that_is_used_has_a_bound(name: str, shape: list[int], position: float) -> None:
    available = less_than(shape, position)
    kind = UPSAMPLERS[name]
    assert kind.least_used * available <= kind.source_size(shape, available) <= available


def test_the_bound_of_inter_is_near_what_its_worst_weight_uses() -> None:
    worst = Inter.source_size((26, 26, 5, 5), 9 * 25 - 1) / (9 * 25 - 1)
    assert Inter.least_used < worst < 1.05 * Inter.least_used


@every_upsampler
def test_starting_values_come_from_the_seed_on_every_path(name: str) -> None:
    kind, shape = UPSAMPLERS[name], [6, 5, 3, 3]
    size = kind.source_size(shape, 50)
    source = numbers(size)
    expected = build(kind, size, shape, seed=1)(source)
    assert_close(build(kind, size, shape, seed=1)(source), expected, "identical")

    with torch.device("meta"):
        late = kind(size, shape).double()
        late.reset_parameters(None)
    assert all(parameter.is_meta for parameter in late.parameters())
    late.to_empty(device="cpu")
    late.reset_parameters(torch.Generator().manual_seed(1))
    assert_close(late(source), expected, "identical")


@every_upsampler
def test_vmap_compile_and_half_precision(name: str) -> None:
    kind, shape = UPSAMPLERS[name], [6, 5, 3, 3]
    upsampler = build(kind, kind.source_size(shape, 50), shape)
    sources = torch.stack([numbers(upsampler.size) for _ in range(3)])
    expected = torch.stack([upsampler(source) for source in sources])

    assert_close(torch.func.vmap(upsampler)(sources), expected, "double")
    compiled = torch.compile(upsampler, backend="aot_eager", fullgraph=True)
    assert_close(torch.stack([compiled(source) for source in sources]), expected, "double")
    half = upsampler.bfloat16()(sources[0].bfloat16())
    assert half.dtype == torch.bfloat16
    assert_close(half.double(), expected[0], "half")


@every_upsampler
@pytest.mark.parametrize("available", [1, 7, 50])
def test_gradients_are_those_of_finite_differences(name: str, available: int) -> None:
    kind, shape = UPSAMPLERS[name], [5, 3, 2]
    upsampler = build(kind, kind.source_size(shape, min(available, 29)), shape)
    inputs = [numbers(upsampler.size).requires_grad_(), *upsampler.parameters()]

    def generate(source: Tensor, *parameters: Tensor) -> Tensor:
        named = dict(zip(dict(upsampler.named_parameters()), parameters, strict=True))
        weight: Tensor = torch.func.functional_call(upsampler, named, (source,))
        return weight

    assert torch.autograd.gradcheck(generate, inputs)


@settings(deadline=None)
@given(shape=shapes(12), position=positions)
def test_repeat_reads_the_source_in_rounds(shape: list[int], position: float) -> None:
    size = less_than(shape, position)
    source = numbers(size)
    expected = torch.stack([source[i % size] for i in range(math.prod(shape))])
    assert_close(build(Repeat, size, shape)(source).flatten(), expected, "identical")


@settings(deadline=None)
@given(shape=shapes(12), position=positions)
def test_a_mask_scales_by_its_entries_in_turn_whatever_the_size(shape: list[int], position: float) -> None:
    size, numel = less_than(shape, position), math.prod(shape)
    mask = build(Mask, size, shape)
    assert isinstance(mask, Mask)
    length, copies = min(9, size), math.ceil(numel / size) - 1
    assert_close(mask.masks.detach(), torch.full_like(mask.masks, 1 / (length * copies)), "double")
    mask.masks.data.normal_()
    source = numbers(size)
    scales = [
        mask.masks[(i // size - 1) * length + i % size % length] if i >= size else source.new_ones(())
        for i in range(numel)
    ]
    expected = torch.stack([source[i % size] * scale for i, scale in enumerate(scales)])
    assert_close(mask(source).flatten(), expected, "double")


@settings(deadline=None)
@given(shape=shapes(12), position=positions)
def test_halves_are_summed_whatever_the_size(shape: list[int], position: float) -> None:
    size = less_than(shape, position)
    weighted = build(WeightedHalves, size, shape)
    assert isinstance(weighted, WeightedHalves)
    half = math.ceil(size / 2)
    halves = [range(half), range(size - half, size)][: min(2, size)]
    coefficients = weighted.coefficients.detach().view(-1, len(halves))
    assert_close(coefficients.T @ coefficients, torch.eye(len(halves), dtype=torch.float64), "double")
    source = numbers(size)
    expected = torch.stack(
        [
            coefficients[i // half] @ torch.stack([source[places[i % half]] for places in halves])
            for i in range(math.prod(shape))
        ]
    )
    assert_close(weighted(source).flatten().detach(), expected, "double")


def test_inter_copies_a_single_row_and_stretches_a_vector_where_the_rule_finds_no_weight() -> None:
    assert in_shape((4, 20), 5) == (1, 5)
    rows = build(Inter, 5, [4, 20])(numbers(5))
    assert_close(rows, rows[:1].expand(4, 20), "double")
    assert rows[0].unique().numel() > 5

    for shape, size in (([64, 64, 3, 3], 8), ([16, 1, 3, 3], 30)):  # the rows vanish, and the columns
        assert not all(in_shape(shape, size) or [0])
        assert Inter.source_size(shape, size) == size
        weight = build(Inter, size, shape)(torch.arange(size, dtype=torch.float64)).flatten()
        assert (weight[0], weight[-1]) == (0, size - 1)
        assert (weight.diff() >= 0).all()


@pytest.mark.parametrize(("size", "shape"), [(8, (8, 8)), (16, (12, 8)), (5, (4, 3)), (2, (3, 5)), (1, (2, 2))])
def test_a_tiled_weight_moves_on_with_each_copy(size: int, shape: tuple[int, int]) -> None:
    weight = UPSAMPLERS["tile"](size, shape)(torch.arange(size))
    expected = [(entry + entry // size) % size for entry in range(shape[0] * shape[1])]
    assert weight.flatten().tolist() == expected
    if size > 2:
        assert len(weight.unique(dim=0)) == shape[0], "two rows are equal"


@pytest.mark.parametrize("long", [1, 10**9])
@pytest.mark.parametrize(("size", "shape"), [(8, (8, 9)), (16, (12, 8)), (5, (4, 3)), (7, (3, 5)), (1, (2, 2))])
def test_tiling_in_blocks_and_number_by_number_is_the_same(
    size: int, shape: tuple[int, int], long: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tile, "LONG_COPY", long)
    upsampler = UPSAMPLERS["tile"](size, shape)
    source = numbers(size).requires_grad_()
    entries = torch.arange(math.prod(shape))
    assert torch.equal(upsampler(source).flatten(), source[(entries + entries // size) % size])
    assert torch.autograd.gradcheck(upsampler, source)
    assert torch.autograd.gradgradcheck(upsampler, source)
