"""A fit of a ring: the mean of its readers, which is the solution of least squares."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import shapeshift
from shapeshift.surgery.roots import require_shared
from tests.fitted import errors_of, shared_weights
from tests.tolerances import assert_close


def layers(zeros: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 20), nn.Linear(20, 30), nn.Conv1d(3, 7, 5))
    with torch.no_grad():
        model[1].weight.mul_(5.0)
        if zeros:
            model[2].weight.zero_()
    return model.double()


@pytest.mark.parametrize("block", [1, 7, 1024])
@pytest.mark.parametrize("budget", ["20%", "50%", "90%"])
@pytest.mark.parametrize("zeros", [False, True])
def test_a_fit_is_the_numerical_solution_of_least_squares(block: int, budget: str, zeros: bool) -> None:
    plain = layers(zeros)
    options = {"combine": "ring", "ring_block": block, "init": "fit", "exclude": ["*.bias"]}
    model = shapeshift.compress(copy.deepcopy(plain), budget, **options)
    (ring,) = require_shared(model).generators()
    targets = {weight.name: plain.get_parameter(weight.name).detach() for weight in ring.weights}
    fitted = [index for index, weight in enumerate(ring.weights) if weight.std > 0]
    assert len(fitted) == 3 - zeros

    def relative(store: Tensor) -> Tensor:
        made = ring.made_from(store.split([len(piece) for piece in ring.store]))
        return torch.cat([made[i].flatten() / targets[ring.weights[i].name].norm() for i in fitted])

    store = torch.cat(list(ring.store)).detach()
    matrix = torch.func.jacrev(relative)(store).flatten(1)
    goal = torch.cat([targets[ring.weights[i].name].flatten() / targets[ring.weights[i].name].norm() for i in fitted])
    residual = (matrix @ torch.linalg.lstsq(matrix, goal.unsqueeze(1), driver="gelsd").solution).squeeze(1) - goal
    found = relative(store) - goal
    assert found.square().sum().item() == pytest.approx(residual.square().sum().item(), rel=1e-3)

    # In closed form: the mean of sign * weight / gain over the readers of an entry, weighted by the gain's square.
    squares = matrix.square().sum(0)
    closed = torch.where(squares > 0, matrix.T @ goal / squares, store.flatten())
    assert_close(matrix @ closed - goal, residual, "reordered")
    errors = errors_of(model)
    for weight in ring.weights:
        made, target = shared_weights(model)[weight.name], targets[weight.name]
        norm = target.norm()
        assert errors[weight.name] == pytest.approx(((made - target).norm() / norm).item() if norm else 0.0, abs=1e-6)


@pytest.mark.parametrize("block", [1, 1024])
def test_a_ring_as_large_as_its_weights_fits_them(block: int) -> None:
    plain = layers()
    model = shapeshift.compress(copy.deepcopy(plain), "100%", combine="ring", ring_block=block, init="fit")
    assert max(errors_of(model).values()) < 1e-6
    for name, weight in shared_weights(model).items():
        assert_close(weight, plain.get_parameter(name), "fitted")


@pytest.mark.parametrize("store", ["bfloat16", "int8"])
def test_a_fit_of_a_ring_is_rounded_at_the_end(store: str) -> None:
    model = shapeshift.compress(layers().float(), "100%", combine="ring", init="fit", store=store)
    errors = errors_of(model)
    assert all(1e-4 < error < 0.02 for error in errors.values())


def test_below_the_models_size_mixed_templates_fit_better() -> None:
    squares = {}
    for combine in ("ring", "wavg"):
        model = shapeshift.compress(layers(), "50%", combine=combine, init="fit", seed=0)
        squares[combine] = sum(error**2 for error in errors_of(model).values())
    assert squares["wavg"] < squares["ring"]
