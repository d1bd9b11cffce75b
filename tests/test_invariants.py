"""What holds for every method on every model, whatever it is: the cases come from the registries."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import shapeshift
from shapeshift.surgery.roots import require_shared
from tests.methods import compressed, every_method, least_used
from tests.models import MODELS, gradients, tensors
from tests.structure import assert_looks_like
from tests.tolerances import assert_close

# Below the model's own size by stretching and mixing, and above it by mixing more.
BUDGETS = (0.4, 0.8, 2.5)
every_model = pytest.mark.parametrize("name", MODELS)
every_budget = pytest.mark.parametrize("budget", BUDGETS)


def build(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    torch.manual_seed(1)
    return MODELS[name].build(), MODELS[name].inputs()


def weights_of(model: nn.Module) -> list[tuple[shapeshift.weights.Weight, Tensor]]:
    """Return what each group of a compressed model generates."""
    return [
        (weight, group.generate([index])[0])
        for group in require_shared(model).generators()
        for index, weight in enumerate(group.weights)
    ]


def assert_equal_outputs(actual: Any, expected: Any) -> None:
    assert_close(tensors(actual), tensors(expected), "identical")


@every_budget
@every_method
@every_model
def test_budget_is_met_and_nothing_in_a_store_is_dead(name: str, options: dict[str, str], budget: float) -> None:
    model, inputs = build(name)
    plan = require_shared(compressed(model, budget, **options)).plan

    assert least_used(plan) * plan.budget <= shapeshift.count_parameters(model) <= plan.budget
    # In float64, where no two gradients cancel by chance.
    shared = copy.deepcopy(require_shared(model)).double()
    with torch.no_grad():
        for parameter in shared.parameters():
            assert parameter.isfinite().all()
            parameter.copy_(torch.randn_like(parameter))  # away from zero-init, where a store waits for a coefficient
    generated = [weight for group in shared.generators() for weight in group.generate(range(len(group.weights)))]
    sum((weight * torch.randn_like(weight)).sum() for weight in generated).backward()
    for path, parameter in shared.named_parameters():
        assert (parameter.grad != 0).all(), f"{path} has numbers that no weight is made of"

    found = gradients(model, inputs)
    assert set(found) == {path for path, parameter in model.named_parameters() if parameter.requires_grad}


@every_budget
@every_method
@every_model
def test_weights_start_as_the_layers_own_initialisation(name: str, options: dict[str, str], budget: float) -> None:
    model, _ = build(name)
    dense = {path: parameter.detach().double() for path, parameter in model.named_parameters()}
    compressed(model, budget, **options)

    for weight, generated in weights_of(model):
        row = "half starting deviation" if weight.dtype == torch.bfloat16 else "starting deviation"
        expected = dense[weight.name].std(correction=0)
        assert_close(generated.detach().double().std(correction=0), expected, row)
        assert generated.shape == weight.shape
        assert generated.dtype == weight.dtype


@every_budget
@every_method
def test_on_the_meta_device_nothing_is_drawn(options: dict[str, str], budget: float) -> None:
    with torch.device("meta"):
        model = MODELS["mlp"].build()
    compressed(model, budget, seed=5, **options)
    shared = require_shared(model)
    shared.reset_parameters()
    assert all(tensor.is_meta for tensor in shared.state_dict().values())

    model.to_empty(device="cpu")
    shared.reset_parameters()
    for weight, generated in weights_of(model):
        assert_close(generated.std(correction=0).item(), weight.std, "starting deviation")


@every_budget
@every_method
@every_model
def test_recomputed_weights_change_no_bit(name: str, options: dict[str, str], budget: float) -> None:
    model, inputs = build(name)
    compressed(model, budget, seed=3, **options)
    found = []
    for recompute in (False, True):
        shapeshift.set_recompute(model, recompute)
        torch.manual_seed(2)  # some models drop entries at random
        outputs = [tensor.detach().clone() for tensor in tensors(model(*inputs))]
        torch.manual_seed(2)
        found.append((outputs, gradients(model, inputs)))
    assert_close(found[1], found[0], "identical")


@every_budget
@every_method
@every_model
def test_copies_and_state_dicts(name: str, options: dict[str, str], budget: float) -> None:
    model, inputs = build(name)
    compressed(model, budget, seed=3, **options)
    model.eval()
    expected = model(*inputs)

    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)]
    other = compressed(build(name)[0], budget, seed=3, **options).eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(0.5)
    other.load_state_dict(model.state_dict(), strict=True)
    for twin in [*copies, other]:
        assert_equal_outputs(twin(*inputs), expected)
        assert type(twin) is type(model)
        assert list(twin.state_dict()) == list(model.state_dict())
        assert {id(p) for p in twin.parameters()}.isdisjoint(id(p) for p in model.parameters())
        assert_close(gradients(twin, inputs), gradients(model, inputs), "identical")

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for twin in [*copies, other]:
        assert_equal_outputs(twin(*inputs), expected)


# A model that is compressed once more has weights that were generated, which are no noise.
@pytest.mark.filterwarnings("ignore:.* and would start as noise of equal deviation:shapeshift.ShapeshiftWarning")
@every_budget
@every_method
@every_model
def test_materialize_gives_the_plain_model_back(name: str, options: dict[str, str], budget: float) -> None:
    plain, inputs = build(name)
    model = copy.deepcopy(plain)
    model.train()
    next(model.children()).eval()
    modes = [module.training for module in model.modules()]
    compressed(model, budget, **options)
    gradients(model, inputs)
    expected = copy.deepcopy(model).eval()(*inputs)

    assert shapeshift.materialize(model) is model
    assert [module.training for module in model.modules()] == modes
    assert_equal_outputs(model.eval()(*inputs), expected)
    assert_looks_like(model, plain)
    assert not shapeshift.is_compressed(model)
    pickle.loads(pickle.dumps(model))

    compressed(model, budget, **options)
    assert shapeshift.is_compressed(model)
    assert_looks_like(shapeshift.materialize(model), plain)


@every_budget
@every_method
@every_model
def test_the_same_seed_gives_the_same_stores(name: str, options: dict[str, str], budget: float) -> None:
    def stores(seed: int | None) -> dict[str, Tensor]:
        model = build(name)[0]
        compressed(model, budget, **options, seed=seed)
        return dict(require_shared(model).named_parameters())

    assert_close(stores(5), stores(5), "identical")
    assert_close(stores(None), stores(None), "identical")  # from torch's generator, which build() seeds
    assert any(not a.equal(b) for a, b in zip(stores(5).values(), stores(6).values(), strict=True))


@every_method
@every_model
def test_training_lowers_the_loss(name: str, options: dict[str, str]) -> None:
    model, inputs = build(name)
    compressed(model, 0.5, **options, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = sum(output.float().square().mean() for output in tensors(model(*inputs)))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
