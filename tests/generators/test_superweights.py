"""SuperWeights: how weights are nested, how budgets are spent, and which layers mix with the same coefficients."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import shapeshift
from shapeshift.generators.mixing.assembly import Assembly
from shapeshift.generators.mixing.combinations import Combination
from shapeshift.generators.mixing.nesting import Level, nest
from shapeshift.generators.mixing.product import mix, mix_plain
from shapeshift.generators.superweights import SuperWeightLayout, SuperWeights
from shapeshift.plan import budget_range
from shapeshift.superweights import Family, share_coefficients, unshare_coefficients
from shapeshift.surgery.roots import require_shared
from shapeshift.weights import Weight
from tests import joint_batch
from tests.models import Residual, gradients, loss_of, mlp
from tests.processes import needs_gloo
from tests.tolerances import assert_close

CONFIG = shapeshift.Config(combine="superweights")
NESTED = [(2, 3, 3, 3), (4, 3, 3, 3), (4, 5, 3, 3), (7, 5, 3, 3), (8, 9, 3, 3)]


def weights_of(shapes: Sequence[tuple[int, ...]], std: float = 0.1) -> list[Weight]:
    cpu = torch.device("cpu")
    return [Weight((f"layer{index}",), shape, std, torch.float32, cpu) for index, shape in enumerate(shapes)]


def group_of(weights: Sequence[Weight], available: int | None = None, **options: int) -> SuperWeights:
    config = shapeshift.Config(combine="superweights", **options)
    available = SuperWeights.planner(weights, config).least if available is None else available
    group = SuperWeights.build(weights, SuperWeights.planner(weights, config).lay_out(available), config)
    group.reset_parameters(torch.Generator().manual_seed(0))
    return group


def telescoped(pieces: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]) -> Tensor:
    """The paper's composition: each larger shape adds columns to the rows at hand, and then rows."""
    weight = pieces[0].view(shapes[0])
    for piece, (old_rows, old_columns, *_), (rows, columns, *kernel) in zip(
        pieces[1:], shapes, shapes[1:], strict=False
    ):
        split = old_rows * (columns - old_columns) * math.prod(kernel)
        right = piece[:split].view(old_rows, columns - old_columns, *kernel)
        below = piece[split:].view(rows - old_rows, columns, *kernel)
        weight = torch.cat([torch.cat([weight, right], 1), below])
    return weight


def put_together(
    form: Callable[..., Any], shape: tuple[int, ...], levels: Sequence[Level], vectors: Sequence[Tensor]
) -> Tensor:
    """Make a weight of vectors of its levels, which lie in a store of several pieces."""
    ends = itertools.accumulate(map(len, vectors))
    sizes = zip(map(len, vectors), ends, strict=True)
    draws = [Combination(end - size, 1, size, size, start) for start, (size, end) in enumerate(sizes)]
    store = torch.cat(list(vectors)).unsqueeze(1).split(7)
    ones = torch.ones(len(draws), dtype=torch.float64)
    (weight,) = form(store, ones, [Assembly.nested(levels, draws, shape)])
    return weight.view(shape)


@pytest.mark.parametrize("form", [mix, mix_plain])
@pytest.mark.parametrize("count", range(1, len(NESTED) + 1))
def test_nested_shapes_are_put_together_as_in_the_paper(count: int, form: Callable[..., Any]) -> None:
    levels = nest(NESTED)[:count]
    sizes = [math.prod(shape) for shape in NESTED]
    assert [level.size for level in nest(NESTED)] == [b - a for a, b in itertools.pairwise([0, *sizes])]
    numbers = [torch.randn(level.size, dtype=torch.float64, requires_grad=True) for level in levels]
    weight = put_together(form, NESTED[count - 1], levels, numbers)
    expected = telescoped(numbers, NESTED[:count])
    assert_close(weight, expected, "identical")
    direction = torch.randn_like(weight)
    found = torch.autograd.grad((weight * direction).sum(), numbers)
    assert_close(found, torch.autograd.grad((expected * direction).sum(), numbers), "identical")


def test_kinds_do_not_mix_and_equal_shapes_have_equal_levels() -> None:
    shapes = [(8, 4, 3, 3), (8, 4), (8, 4, 1, 1), (4, 4, 3, 3), (8, 4, 3, 3), (64, 256), (256, 64), (256, 64)]
    levels = nest(shapes)
    read = [[level.shape for level in levels if index in level.readers] for index in range(len(shapes))]
    assert read[0] == read[4] == [(4, 4, 3, 3), (8, 4, 3, 3)]
    assert read[3] == [(4, 4, 3, 3)]
    assert read[2] == [(8, 4, 1, 1)]
    # Neither of these holds the other: each has the corner that they share, and what the other lacks.
    assert read[6] == read[7] == [(8, 4), (64, 256), (256, 64)]
    assert read[5] == [(8, 4), (64, 256)]
    assert sum(level.size for level in levels if len(level.shape) == 2) == 2 * 64 * 256 - 64 * 64
    assert [level.whole for level in levels if level.shape == (256, 64)] == [2]


two_axes = st.tuples(st.integers(2, 9), st.integers(2, 9))
any_shapes = st.lists(
    st.tuples(two_axes, st.sampled_from([(), (3,), (2, 2)])).map(lambda pair: pair[0] + pair[1])
    | st.sampled_from([(24, 16, 3, 3), (16, 24, 3, 3), (32, 8)]),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(any_shapes)
def test_a_weight_is_put_together_alike_with_and_without_plain_operations(shapes: list[tuple[int, ...]]) -> None:
    found = nest(shapes)
    for index, shape in enumerate(shapes):
        levels = [level for level in found if index in level.readers]
        vectors = [torch.randn(level.size, dtype=torch.float64, requires_grad=True) for level in levels]
        weight, plain = (put_together(form, shape, levels, vectors) for form in (mix, mix_plain))
        assert_close(weight, plain, "identical")
        direction = torch.randn_like(weight)
        first, second = (torch.autograd.grad(made, vectors, direction) for made in (weight, plain))
        assert_close(first, second, "identical")


@pytest.mark.parametrize("index", [0, 1])
def test_a_weight_that_is_put_together_is_differentiable_twice(index: int) -> None:
    shapes = [(2, 3), (3, 2)]
    levels = [level for level in nest(shapes) if index in level.readers]
    vectors = [torch.randn(level.size, dtype=torch.float64, requires_grad=True) for level in levels]
    assert torch.autograd.gradcheck(lambda *v: put_together(mix, shapes[index], levels, v), vectors)
    assert torch.autograd.gradgradcheck(lambda *v: put_together(mix, shapes[index], levels, v), vectors)


@settings(max_examples=60, deadline=None)
@given(any_shapes)
def test_with_one_template_each_weights_have_the_same_numbers_where_both_have_any(
    shapes: list[tuple[int, ...]],
) -> None:
    group = group_of(weights_of(shapes))
    with torch.no_grad():
        group.gains.fill_(1.0)
        if group.coefficients is not None:
            group.coefficients.fill_(1.0)
    found = group.generate(range(len(shapes)))
    for one, other in itertools.combinations(found, 2):
        if one.shape[2:] == other.shape[2:]:
            rows, columns = (min(one.shape[axis], other.shape[axis]) for axis in (0, 1))
            assert_close(one[:rows, :columns], other[:rows, :columns], "identical")
    sums = {kind: torch.zeros(33, 33) for kind in {shape[2:] for shape in shapes}}
    for shape in shapes:
        sums[shape[2:]][: shape[0], : shape[1]] = math.prod(shape[2:])
    assert group.layout.banks == tuple(level.size for level in group.levels)
    assert sum(group.layout.banks) == sum(area.sum() for area in sums.values())


def _hold_one_another(shapes: Sequence[tuple[int, ...]]) -> bool:
    return all(one[1] <= other[1] for one, other in itertools.pairwise(sorted(shapes)))


@settings(max_examples=60, deadline=None)
@given(any_shapes, st.floats(0, 1), st.booleans(), st.booleans(), st.integers(1, 9))
def test_any_budget_is_used_up_and_no_number_is_dead(
    shapes: list[tuple[int, ...]], position: float, tight: bool, zero: bool, limit: int
) -> None:
    config = shapeshift.Config(combine="superweights", max_templates=limit)
    weights = weights_of(shapes) + weights_of([(3, 4)], std=0.0) * zero
    least, most = SuperWeights.planner(weights, config).least, SuperWeights.planner(weights, config).most
    total = sum(weight.numel for weight in weights)
    kernels = {shape[2:] for shape in shapes}
    if all(_hold_one_another([weight.shape for weight in weights if weight.shape[2:] == kernel]) for kernel in kernels):
        assert most >= limit * total
    highest = max(least, min(most, total)) if tight else most
    available = round(least + position * (highest - least))
    layout = SuperWeights.planner(weights, config).lay_out(available)
    # A second template of a weight that shares with nobody is one number at least, and two coefficients.
    assert available - max(2, 0.01 * available) <= layout.num_parameters <= available
    assert SuperWeights.layout_type.from_dict(json.loads(json.dumps(layout.to_dict())), weights) == layout

    group = SuperWeights.build(weights, layout, config).double()
    assert sum(parameter.numel() for parameter in group.parameters()) == layout.num_parameters
    assert max(draw.count for draws in group.combinations for draw in draws.values()) <= limit
    with torch.no_grad():
        group.gains.fill_(1.0)
        for parameter in group.parameters():
            parameter.normal_()
    sum((weight * torch.randn_like(weight)).sum() for weight in group.generate(range(len(weights)))).backward()
    assert all((parameter.grad != 0).all() for parameter in group.parameters())


def test_too_small_a_budget_is_an_error_that_names_the_least() -> None:
    model = mlp()
    least, _ = budget_range(model, CONFIG)
    with pytest.raises(shapeshift.BudgetError, match=f"the least for this model and config is {least:,}"):
        shapeshift.compress(model, least - 1, CONFIG)
    assert not shapeshift.is_compressed(model)
    shapeshift.compress(model, least, CONFIG)
    assert shapeshift.count_parameters(model) == least


def test_templates_are_handed_out_in_turn() -> None:
    weights = weights_of([(4, 4), (4, 4), (8, 8), (8, 8), (8, 8)])
    # A template of 16 numbers with five coefficients, and one of 48 with three.
    for available, banks in (
        (72, (16, 48)),
        (72 + 21, (32, 48)),
        (72 + 21 + 51, (32, 96)),
        (72 + 21 + 51 + 21, (48, 96)),
        (72 + 21 + 20, (32, 48 + 17)),  # a part of a template, as large as it gets
        (5 * 21 + 3 * 51, (80, 144)),  # as many templates as weights
        (6 * 21 + 3 * 51, (96, 144)),
    ):
        layout = SuperWeights.planner(weights, CONFIG).lay_out(available)
        assert layout.banks == banks
        assert layout.num_parameters == available


def test_weights_start_at_the_deviation_of_their_own_fan_in_and_those_at_zero_still_learn() -> None:
    stds = [0.3, 0.05, 0.02, 0.0]
    shapes = [(8, 3, 3, 3), (16, 8, 3, 3), (32, 16, 3, 3), (16, 16, 3, 3)]
    weights = [weights_of([shape], std)[0] for shape, std in zip(shapes, stds, strict=True)]
    group = group_of(weights, 3 * 32 * 16 * 9)
    generated = group.generate(range(4))
    found = torch.stack([weight.detach().std(correction=0) for weight in generated])
    assert_close(found, torch.tensor(stds), "starting deviation")
    # Each level of a weight counts alike, whether its numbers are mixed or not.
    corner, whole = generated[2].detach()[:16, :8], generated[2].detach()
    assert 0.8 < corner.std() / whole.std() < 1.25
    generated[3].sum().backward()
    assert group.zero_factors is not None
    assert group.zero_factors.grad.item() != 0
    assert all(parameter.isfinite().all() for parameter in group.parameters())

    twin = group_of(weights, 3 * 32 * 16 * 9)
    assert_close(twin.state_dict(), group.state_dict(), "identical")


def test_a_lone_weight_has_no_coefficient() -> None:
    group = group_of(weights_of([(9, 9)]))
    assert group.coefficients is None
    assert group.coefficient_parameters() == []
    assert group.layout.num_parameters == 81


def test_a_description_names_the_templates_of_each_level() -> None:
    weights = weights_of([(4, 4), (8, 4), (8, 4)])
    layout = SuperWeights.planner(weights, CONFIG).lay_out(2 * (16 + 3) + 2 * (16 + 2))
    assert layout.banks == (32, 32)
    described = layout.describe(weights)
    assert described.stores == {"store": 64}
    assert described.coefficients == 6 + 4
    assert described.weights[0].templates == (("store", 0, 16), ("store", 16, 32))
    assert described.weights[1].templates == (*described.weights[0].templates, ("store", 32, 48), ("store", 48, 64))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"banks": (16,)}, "1 banks.* for 2 levels"),
        ({"banks": (15, 32)}, r"a bank of 15 entries for the level \(4, 4\)"),
        ({"banks": (16, 10**12)}, "a bank of 1000000000000 entries"),
        ({"limit": 0}, "up to 0 templates"),
        ({"num_coefficients": 10**12}, "is for other weights"),
        ({"zeros": 1}, "is for other weights"),
    ],
    ids=str,
)
def test_layouts_that_cannot_be_are_refused(changes: dict[str, object], message: str) -> None:
    weights = weights_of([(4, 4), (8, 4), (8, 4)])
    fields = SuperWeights.planner(weights, CONFIG).lay_out(16 + 3 + 2 * 16 + 4).to_dict()
    with pytest.raises(ValueError, match=message):
        SuperWeightLayout.from_dict({**fields, **changes}, weights)


def test_it_compiles_in_one_graph() -> None:
    torch.manual_seed(1)
    model, inputs = shapeshift.compress(mlp(), 0.8, CONFIG), (torch.randn(4, 16),)
    expected = gradients(model, inputs)
    torch.compiler.reset()
    model.compile(fullgraph=True, backend="aot_eager")
    assert_close(gradients(model, inputs), expected, "compiled")


def test_autocast_leaves_the_weights_precision_alone() -> None:
    group = group_of(weights_of([(9, 9), (9, 4)]), 130)
    expected = group.generate([0, 1])
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(group.generate([0, 1]), expected, "identical")


def test_every_weight_mixes_with_coefficients_of_its_own_after_a_start_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = shapeshift.compress(mlp(), 0.8, CONFIG)
    model.to_empty(device="cpu")
    require_shared(model).reset_parameters()
    group = require_shared(model)["all"]
    assert group.coefficient_index.tolist() == list(range(len(group.coefficients)))


def test_decay_is_for_templates_and_not_for_coefficients() -> None:
    model = shapeshift.compress(Residual(), 0.8, CONFIG)
    group = require_shared(model)["all"]
    decayed, spared = ({id(p) for p in row["params"]} for row in shapeshift.parameter_groups(model, 0.1))
    assert {id(piece) for piece in group.store} <= decayed
    assert {id(group.coefficients), id(group.zero_factors)} <= spared


def tied_model() -> tuple[nn.Module, SuperWeights]:
    torch.manual_seed(1)
    model = shapeshift.compress(mlp(depth=4), 0.6, CONFIG, seed=2)
    return model, require_shared(model)["all"]


def test_a_tied_coefficient_has_the_gradients_of_all_its_layers() -> None:
    model, group = tied_model()
    inputs = (torch.randn(4, 16),)
    own = len(group.coefficients)
    used = share_coefficients(model)
    rows = [draw for draws in group.combinations for draw in draws.values()]
    counts = {level: draw.count for draws in group.combinations for level, draw in draws.items()}
    assert used == sum(counts.values()) < own == sum(draw.count for draw in rows)
    tied = gradients(model, inputs)["shapeshift.all.coefficients"]

    values = group.coefficients.detach()[group.coefficient_index]
    with torch.no_grad():
        group.coefficients.copy_(values)
        sources = group.coefficient_index.clone()
        group.coefficient_index.copy_(torch.arange(own))
    apart = gradients(model, inputs)["shapeshift.all.coefficients"]
    summed = torch.zeros(own).index_add_(0, sources, apart)
    assert_close(tied, summed, "reordered gradient")
    assert (apart != 0).all()
    assert len(set(sources.tolist())) == used


def test_only_the_layers_that_are_named_are_tied() -> None:
    model, group = tied_model()
    own = len(group.coefficients)
    used = share_coefficients(model, [["0", "4"], ["2.weight", "6"]])
    weights = [weight.name for weight in group.weights]
    assert weights == ["0.weight", "2.weight", "4.weight", "6.weight", "8.weight"]
    per_layer = sum(draw.count for draw in group.combinations[0].values())
    assert used == own - 2 * per_layer
    for level, draw in group.combinations[2].items():
        assert group.coefficient_index[draw.start] == group.combinations[0][level].start
    for draw in group.combinations[4].values():
        assert group.coefficient_index[draw.start] == draw.start


def agree(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """A loss that pulls the first two weights one way and the two others the opposite way."""
    first, second, third, fourth = (model[index].weight for index in (0, 2, 4, 6))
    direction = torch.linspace(-1, 1, first.numel()).view(first.shape)
    rest = sum(parameter.sum() for parameter in model.parameters())
    return (direction * (first + 2 * second - third - 3 * fourth)).sum() + 0 * rest + 0 * batch[0].sum()


def test_coefficients_in_conflict_are_separated_and_the_optimizer_goes_on() -> None:
    model, group = tied_model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    coefficients = group.coefficients
    shared = share_coefficients(model, [["0", "2", "4", "6"]])
    loss_of(model(torch.randn(4, 16))).backward()
    optimizer.step()
    before = group.generate(range(4))
    data = [(torch.randn(8, 16), torch.zeros(8)) for _ in range(4)]
    used = unshare_coefficients(model, data, loss=agree, samples=20)
    # Nothing has moved, and every row is one of the first or the third layer's.
    assert_close(group.generate(range(4)), before, "identical")
    sources = [
        [int(group.coefficient_index[draw.start]) for draw in group.combinations[index].values()] for index in range(4)
    ]
    assert sources[0] == sources[1] != sources[2] == sources[3]
    assert used == shared + sum(draw.count for draw in group.combinations[0].values())
    assert group.coefficients is coefficients

    # Now they part, through the one parameter that the optimizer has known all along.
    optimizer.zero_grad()
    agree(model, data[0]).backward()
    optimizer.step()
    for first, third in zip(group.combinations[0].values(), group.combinations[2].values(), strict=True):
        rows = [draw.row for draw in (first, third)]
        assert all((coefficients.grad[row] != 0).all() for row in rows)
        assert (coefficients[rows[0]] != coefficients[rows[1]]).all()

    # Those that are still tied agree, so that nothing more is separated.
    assert unshare_coefficients(model, data, loss=agree, samples=20) == used


def test_the_gradient_of_a_coefficient_is_that_of_its_own_layer() -> None:
    group = group_of(weights_of([(6, 6), (6, 4), (6, 6)]), 110).double()
    share = {index: torch.randn(weight.shape, dtype=torch.float64) for index, weight in enumerate(group.weights)}
    found = group.coefficient_gradients(share)
    weights = group.generate([0, 1, 2])
    (expected,) = torch.autograd.grad(
        sum((weight * share[index]).sum() for index, weight in enumerate(weights)), group.coefficients
    )
    assert_close(found, expected, "double")
    alone = group.coefficient_gradients({1: share[1]})
    touched = {place for draw in group.combinations[1].values() for place in range(draw.start, draw.start + draw.count)}
    assert set(alone.nonzero().flatten().tolist()) == touched


def test_ties_survive_a_checkpoint_and_a_copy(tmp_path: Path) -> None:
    model, group = tied_model()
    share_coefficients(model, [["0", "2"], ["4", "6"]])
    shapeshift.save(model, tmp_path)
    torch.manual_seed(7)
    loaded = shapeshift.load(tmp_path, mlp(depth=4))
    assert_close(require_shared(loaded)["all"].coefficient_index, group.coefficient_index, "identical")
    x = torch.randn(3, 16)
    assert_close(loaded(x), model(x), "identical")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: share_coefficients(shapeshift.compress(mlp(), 0.6)), "this one was made by 'wavg'"),
        (lambda: share_coefficients(tied_model()[0], [["0", "nine"]]), "layers: 'nine' matches no"),
        (lambda: share_coefficients(tied_model()[0], [["0"], ["*"]]), "layers: 0.weight is in two sets"),
    ],
    ids=["wavg", "unknown", "twice"],
)
def test_ties_that_cannot_be(call: object, message: str) -> None:
    with pytest.raises(shapeshift.ConfigError, match=message):
        call()


def test_ties_need_a_compressed_model() -> None:
    with pytest.raises(shapeshift.ModelError, match="is not compressed"):
        share_coefficients(mlp())


def test_too_few_samples_separate_nothing() -> None:
    model, group = tied_model()
    share_coefficients(model)
    before = group.coefficient_index.clone()
    with pytest.raises(
        shapeshift.DataError, match="holds 8 samples, and gradients are to be taken over at least 1,000"
    ):
        unshare_coefficients(model, [(torch.randn(8, 16), torch.zeros(8, dtype=torch.long))])
    assert group.coefficient_index.equal(before)


def test_families_take_the_same_ties() -> None:
    family = Family([mlp(16), mlp(12)], 0.9, seed=0)
    used = share_coefficients(family, [["members.0.0", "members.1.0"]])
    assert used < len(require_shared(family)["all"].coefficients)


def mlps() -> Family:
    torch.manual_seed(0)
    networks = [
        nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)),
        nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 4)),
    ]
    return Family(networks, 0.8, seed=1)


class Averaged(nn.Module):
    """A family whose output is one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.family = mlps()

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack(self.family(x)).mean(0)


@needs_gloo
def test_two_processes_have_the_gradients_of_one_with_the_joint_batch(tmp_path: Path) -> None:
    losses, gradients = joint_batch.train(Averaged(), *joint_batch.data())
    for result in joint_batch.run(tmp_path, Averaged, DistributedDataParallel):
        assert_close(result["losses"], losses, "reordered gradient")
        assert_close(result["gradients"], gradients, "reordered gradient")
