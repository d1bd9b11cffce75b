"""The solvers of least squares."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.sparse.linalg import lsmr
from torch import Tensor, nn

import shapeshift
from shapeshift.fitting.error_maps import plain
from shapeshift.fitting.least_squares import LeastSquares
from shapeshift.fitting.scaling import linear_parts
from shapeshift.surgery.shared_parameters import SharedParameters
from shapeshift.upsamplers import UPSAMPLERS
from tests.fitted import FITTED, errors_of, similar_layers
from tests.tolerances import assert_close


@pytest.mark.parametrize("templates", [1, 2, 3, 5])
def test_equal_shapes_are_fitted_as_well_as_by_a_truncated_svd(templates: int) -> None:
    model = similar_layers()
    weights = [layer.weight for layer in model]
    # Scaled as the fit weighs them: relative to their norms.
    stacked = torch.stack([weight.detach().flatten() / weight.detach().norm() for weight in weights])
    best = torch.linalg.svdvals(stacked)[templates:].norm()
    budget = templates * (12 * 10 + len(weights)) if templates > 1 else 12 * 10
    shapeshift.compress(model, budget, init="fit", max_templates=templates, seed=0)
    (group,) = shapeshift.report(model).groups
    assert {weight.source.templates for weight in group.weights} == {group.weights[0].source.templates}
    assert group.stores == {"store": templates * 120}
    found = math.sqrt(sum(error**2 for error in errors_of(model).values()))
    if templates == 1:  # without coefficients, one template is a mean
        assert best <= found <= 1.5 * math.sqrt(len(weights))
    else:
        assert best * (1 - 1e-5) <= found <= 1.01 * best


@pytest.mark.parametrize("upsample", list(UPSAMPLERS))
@pytest.mark.parametrize("combine", FITTED)
def test_conjugate_gradients_solve_what_a_dense_solver_solves(combine: str, upsample: str) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5), nn.Linear(8, 9)).double()
    plan = shapeshift.plan_compression(model, 80, combine=combine, upsample=upsample, init="fit", embedding_size=2)
    shared = shapeshift.compression.SharedParameters(plan)
    shared.reset_parameters()
    (group,) = shared.generators()
    wanted = [model.get_parameter(weight.name).detach() for weight in group.weights]
    problem = LeastSquares(group, range(len(wanted)), [plain] * len(wanted), wanted)
    target = torch.cat([weight.flatten() for weight in wanted])
    parts = linear_parts(group)
    assert {id(p) for part in parts for p in part} == {id(p) for p in group.parameters()}
    for part in parts:
        sizes = [parameter.numel() for parameter in part]

        def made(values: Tensor, part: list[nn.Parameter] = part, sizes: list[int] = sizes) -> Tensor:
            with torch.no_grad():
                for parameter, piece in zip(part, values.split(sizes), strict=True):
                    parameter.copy_(piece.view(parameter.shape))
                return torch.cat([weight.flatten() for weight in group.generate(range(len(wanted)))])

        start = torch.cat([parameter.detach().flatten() for parameter in part])
        offset = made(torch.zeros_like(start))
        columns = torch.stack([made(unit) - offset for unit in torch.eye(len(start), dtype=torch.float64)], 1)
        assert_close(made(2 * start) - offset, 2 * (made(start) - offset), "double")  # linear, as promised
        best = columns @ torch.linalg.lstsq(columns, (target - offset)[:, None], driver="gelsd").solution[:, 0] + offset
        made(start)
        loss = problem.solve(part, steps=500, tolerance=0)
        now = torch.cat([weight.flatten() for weight in group.generate(range(len(wanted)))])
        assert_close(now.detach(), best, "conjugate gradients")
        assert_close(loss, ((best - target).square().sum() / target.square().sum()).item(), "conjugate gradients")


@pytest.mark.parametrize("budget", [30, 60, 100])  # 77 equations: with fewer unknowns, and with more
@pytest.mark.parametrize("combine", FITTED)
def test_conjugate_gradients_reach_the_residual_of_lsmr(combine: str, budget: int) -> None:
    model = nn.Sequential(nn.Linear(6, 5, bias=False), nn.Linear(5, 8, bias=False), nn.Linear(3, 10, bias=False))
    model.double()
    plan = shapeshift.plan_compression(model, budget, combine=combine, init="fit", embedding_size=2, seed=0)
    shared = SharedParameters(plan)
    shared.reset_parameters()
    (group,) = shared.generators()
    wanted = [model.get_parameter(weight.name).detach() for weight in group.weights]
    # The errors of a layer's outputs on inputs of its own, of fewer directions than the layer has channels.
    inputs = [torch.randn(weight.shape[1] - 1, weight.shape[1], dtype=torch.float64) for weight in wanted]
    metrics = [lambda weight, x=x: x @ weight.T for x in inputs]
    problem = LeastSquares(group, range(len(wanted)), metrics, wanted)
    target = torch.cat([metric(weight).flatten() for metric, weight in zip(metrics, wanted, strict=True)])
    for part in linear_parts(group):

        def made(values: Tensor, part: list[nn.Parameter] = part) -> Tensor:
            nn.utils.vector_to_parameters(values, part)
            return torch.cat([output.detach().flatten() for output in problem.generate()])

        start = nn.utils.parameters_to_vector(part).detach().clone()
        offset = made(torch.zeros_like(start))
        columns = torch.stack([made(unit) - offset for unit in torch.eye(len(start), dtype=torch.float64)], 1)
        solution = lsmr(columns.numpy(), (target - offset).numpy(), atol=1e-14, btol=1e-14, maxiter=2000)[0]
        best = columns @ torch.from_numpy(solution) + offset
        made(start)
        loss = problem.solve(part, steps=1000, tolerance=0)
        assert loss == pytest.approx(
            ((best - target).square().sum() / target.square().sum()).item(), rel=1e-4, abs=1e-9
        )
        outputs = torch.cat([output.detach().flatten() for output in problem.generate()])
        assert_close(outputs, best, "conjugate gradients")
