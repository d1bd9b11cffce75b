"""The hypernetwork generator: the formula, its sizes under a budget, and what its weights depend on."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import shapeshift
from shapeshift.generators.hypernetwork import Hypernetwork, HypernetworkLayout, hypernetwork
from shapeshift.networks.wide_resnet import WideResNet
from shapeshift.surgery.roots import require_shared
from shapeshift.weights import Weight, find_weights
from tests.models import Residual, gradients, mlp
from tests.tolerances import assert_close

CONFIG = shapeshift.Config(combine="hypernetwork")


def weights_of(shapes: Sequence[tuple[int, ...]], std: float = 0.1) -> list[Weight]:
    cpu = torch.device("cpu")
    return [Weight((f"layer{index}",), shape, std, torch.float32, cpu) for index, shape in enumerate(shapes)]


def group_of(weights: Sequence[Weight], available: int) -> Hypernetwork:
    group = Hypernetwork.build(weights, Hypernetwork.planner(weights, CONFIG).lay_out(available), CONFIG)
    group.reset_parameters(torch.Generator().manual_seed(0))
    return group


def spelled_out(embeddings: Tensor, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor | None) -> Tensor:
    """Ha et al.'s equations, one input channel of one kernel at a time."""
    kernels = []
    for z in embeddings:
        a = [w_in[i] @ z + b_in[i] for i in range(len(w_in))]
        kernels.append(torch.stack([w_out @ a_i if b_out is None else w_out @ a_i + b_out for a_i in a]))
    return torch.stack(kernels)


@pytest.mark.parametrize("with_bias", [True, False])
def test_the_formula_is_the_papers(with_bias: bool) -> None:
    shapes = [(5, 3), (4, 2, 3), (4, 2), (7, 2), *([(7,)] if with_bias else [])]
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    arguments = tensors if with_bias else [*tensors, None]
    weight, bias = hypernetwork(*arguments[1:])
    blocks, expected = F.linear(arguments[0], weight, bias).view(5, 4, 7), spelled_out(*arguments)
    assert_close(blocks, expected, "double")
    direction = torch.randn_like(blocks)
    found = torch.autograd.grad((blocks * direction).sum(), tensors)
    assert_close(found, torch.autograd.grad((expected * direction).sum(), tensors), "double")


def test_a_weight_is_its_blocks_end_to_end_times_its_gain() -> None:
    weights = weights_of([(6, 7, 3), (5, 2), (40,), (9, 9)])
    group = group_of(weights, 150)
    sizes = group.layout
    assert len(set(sizes.blocks)) > 1
    assert any(weight.numel % (sizes.rows * sizes.columns) for weight in weights)
    layers = (
        group.input.weight.view(sizes.rows, sizes.hidden, sizes.embedding),
        group.input.bias.view(sizes.rows, sizes.hidden),
        group.output.weight,
        group.output.bias,
    )
    begin = 0
    for index, (weight, count) in enumerate(zip(weights, sizes.blocks, strict=True)):
        numbers = spelled_out(group.embeddings[begin : begin + count], *layers).flatten()[: weight.numel]
        begin += count
        assert_close(group.generate([index])[0], (numbers * group.gains[index]).view(weight.shape), "reordered")
    assert begin == len(group.embeddings)
    assert_close(group.generate([3, 1]), [group.generate([index])[0] for index in (3, 1)], "identical")


def test_the_sizes_are_those_of_ha_et_al_at_their_budget() -> None:
    weights = find_weights(WideResNet(40, 2), exclude=("head",))
    blocks = tuple(math.ceil(weight.numel / (16 * 144)) for weight in weights)
    reference = HypernetworkLayout(rows=16, columns=144, hidden=64, embedding=64, bias=True, blocks=blocks, zeros=0)
    assert Hypernetwork.planner(weights, CONFIG).lay_out(reference.num_parameters) == reference


@pytest.mark.parametrize("share", [0.002, 0.02, 0.4, 2.5, 10.0])
def test_no_size_is_far_from_the_reference_or_beyond_what_helps(share: float) -> None:
    weights = find_weights(WideResNet(28, 10))
    available = int(share * sum(weight.numel for weight in weights))
    sizes = Hypernetwork.planner(weights, CONFIG).lay_out(available)
    assert 0.99 * available <= sizes.num_parameters <= available
    assert sizes.bias
    assert sizes.hidden <= sizes.columns
    found = (sizes.rows, sizes.columns, sizes.hidden, sizes.embedding)
    assert all(1 / 10 < size / usual < 10 for size, usual in zip(found, (16, 144, 64, 64), strict=True))


shapes = st.lists(
    st.lists(st.integers(2, 9), min_size=2, max_size=4).map(tuple)
    | st.sampled_from([(24, 16, 3, 3), (64, 32), (2, 2)]),
    min_size=1,
    max_size=6,
)


@settings(max_examples=100, deadline=None)
@given(shapes, st.floats(0, 1), st.booleans(), st.booleans())
def test_any_budget_is_used_up_and_no_number_is_dead(
    shapes: list[tuple[int, ...]], position: float, tight: bool, zero: bool
) -> None:
    weights = weights_of(shapes) + weights_of([(3, 4)], std=0.0) * zero
    least, most = Hypernetwork.planner(weights, CONFIG).least, Hypernetwork.planner(weights, CONFIG).most
    total = sum(weight.numel for weight in weights)
    assert least < 3 + total
    assert 15 * total < most <= 16 * total
    highest = max(least, total) if tight else most
    available = round(least + position * (highest - least))
    layout = Hypernetwork.planner(weights, CONFIG).lay_out(available)
    assert 0.99 * available <= layout.num_parameters <= available
    assert Hypernetwork.layout_type.from_dict(json.loads(json.dumps(layout.to_dict())), weights) == layout

    group = Hypernetwork.build(weights, layout, CONFIG).double()
    assert sum(parameter.numel() for parameter in group.parameters()) == layout.num_parameters
    with torch.no_grad():
        group.gains.fill_(1.0)
        for parameter in group.parameters():
            parameter.normal_()
    sum((weight * torch.randn_like(weight)).sum() for weight in group.generate(range(len(weights)))).backward()
    assert all((parameter.grad != 0).all() for parameter in group.parameters())


@pytest.mark.parametrize("shapes", [[(2, 2)], [(4, 4)], [(5, 4)], [(6, 4)], [(5, 4), (4, 5)], [(40, 3, 3), (2, 5)]])
def test_every_small_budget_is_used_up(shapes: list[tuple[int, ...]]) -> None:
    weights = weights_of(shapes)
    least, most = Hypernetwork.planner(weights, CONFIG).least, Hypernetwork.planner(weights, CONFIG).most
    for available in [*range(least, min(200, most)), most]:
        used = Hypernetwork.planner(weights, CONFIG).lay_out(available).num_parameters
        assert 0.99 * available <= used <= available
    for bound in (least, most):
        assert Hypernetwork.planner(weights, CONFIG).lay_out(bound).num_parameters == bound


def test_weights_start_at_their_deviation_and_those_at_zero_still_learn() -> None:
    weights = weights_of([(16, 8, 3, 3), (10, 16)], std=0.05) + weights_of([(8, 8)], std=0.0)
    group = group_of(weights, 400)
    generated = group.generate(range(3))
    stds = torch.stack([weight.detach().std(correction=0) for weight in generated])
    assert_close(stds, torch.tensor([0.05, 0.05, 0.0]), "starting deviation")
    generated[2].sum().backward()
    assert group.zero_factors is not None
    assert group.zero_factors.grad.item() != 0

    twin = group_of(weights, 400)
    assert_close(twin.state_dict(), group.state_dict(), "identical")
    twin.reset_parameters(torch.Generator().manual_seed(1))
    assert not twin.embeddings.equal(group.embeddings)


def test_one_weight_needs_its_own_embeddings_only() -> None:
    group = group_of(weights_of([(9, 9)] * 3), 150)
    first, count, _ = group.layout.blocks
    group.generate([1])[0].sum().backward()
    touched = group.embeddings.grad.any(1)
    assert touched.nonzero().flatten().tolist() == list(range(first, first + count))


def test_a_description_names_what_small_and_large_weights_read() -> None:
    weights = weights_of([(10, 10, 10), (3, 7), (2, 2)])
    layout = HypernetworkLayout(rows=4, columns=6, hidden=3, embedding=5, bias=True, blocks=(42, 1, 1), zeros=0)
    described = layout.describe(weights)
    assert described.stores == {"input": 4 * 3 * 6, "output": 6 * 4}
    assert described.coefficients == 44 * 5
    assert [source.templates for source in described.weights] == [
        (("input", 0, 72), ("output", 0, 24)),
        (("input", 0, 72), ("output", 0, 24)),
        (("input", 0, 15), ("input", 60, 63), ("output", 0, 12), ("output", 18, 22)),
    ]
    assert [source.upsampled for source in described.weights] == [True, False, False]


def test_decay_is_for_the_two_layers_and_not_for_embeddings() -> None:
    model = shapeshift.compress(Residual(), 0.6, CONFIG)
    group = require_shared(model)["all"]
    decayed, spared = ({id(p) for p in row["params"]} for row in shapeshift.parameter_groups(model, 0.1))
    assert {id(group.input.weight), id(group.output.weight)} <= decayed
    assert {id(group.embeddings), id(group.zero_factors), id(group.input.bias)} <= spared


def test_it_compiles_in_one_graph() -> None:
    torch.manual_seed(1)
    model, inputs = shapeshift.compress(mlp(), 0.6, CONFIG), (torch.randn(4, 16),)
    expected = gradients(model, inputs)
    torch.compiler.reset()
    model.compile(fullgraph=True, backend="aot_eager")
    assert_close(gradients(model, inputs), expected, "compiled")


def test_autocast_leaves_the_weights_precision_alone() -> None:
    group = group_of(weights_of([(9, 9)] * 3), 150)
    expected = group.generate([0, 1])
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(group.generate([0, 1]), expected, "identical")


@pytest.mark.parametrize(
    "changes", [{"rows": 0}, {"hidden": -1}, {"embedding": 0}, {"blocks": (1, 0)}, {"zeros": -1}], ids=str
)
def test_impossible_sizes_are_refused(changes: dict[str, object]) -> None:
    fields = {"rows": 2, "columns": 3, "hidden": 1, "embedding": 1, "bias": True, "blocks": (1, 2), "zeros": 0}
    with pytest.raises(ValueError, match="no such sizes exist"):
        HypernetworkLayout(**{**fields, **changes})


@pytest.mark.parametrize(("shape", "std"), [((90, 9), 0.1), ((9, 9), 0.0)])
def test_a_layout_of_other_weights_is_refused(shape: tuple[int, ...], std: float) -> None:
    layout = Hypernetwork.planner(weights_of([(9, 9)]), CONFIG).lay_out(60)
    with pytest.raises(ValueError, match=r"a layout of .* blocks and 0 weights that start at zero, for weights of"):
        HypernetworkLayout.from_dict(layout.to_dict(), weights_of([shape], std))
