"""Generators against golden numbers: values, gradients, and the shapes of templates for a learned mapping."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import shapeshift
from shapeshift.generators.emb import Embedding
from shapeshift.generators.mixing.combinations import Combination
from shapeshift.generators.mixing.layout import TemplateLayout
from shapeshift.generators.softmax import Softmax, template_shape
from shapeshift.generators.template_generator import TemplateGenerator
from shapeshift.generators.wavg import WeightedAverage
from shapeshift.weights import Weight
from tests.golden import Arrays, cases, table
from tests.tolerances import assert_close


def by_case(name: str) -> pytest.MarkDecorator:
    found = cases(name)
    return pytest.mark.parametrize("case", found, ids=[f"c{number}" for number in range(len(found))])


def as_tensor(case: Arrays, name: str) -> Tensor:
    return torch.from_numpy(case[name])


def build(kind: type[TemplateGenerator], case: Arrays, size: int, embedding_size: int = 24) -> TemplateGenerator:
    """Make a group of one weight whose templates of ``size`` numbers lie where the case's block is."""
    shape, theta = tuple(case["shape"].tolist()), as_tensor(case, "theta")
    count, start, _ = case["block"].tolist()
    weight = Weight(("weight",), shape, 1.0, torch.float64, torch.device("cpu"))
    layout = TemplateLayout(len(theta), (Combination(start, count, size, count * size, 0),), 0)
    group = kind.build([weight], layout, shapeshift.Config(embedding_size=embedding_size))
    with torch.no_grad():
        group.store[0].copy_(theta.view(-1, 1))
        # A constant factor on each coefficient, which is what a mask is.
        group.gains.copy_(as_tensor(case, "mask") if "mask" in case else torch.ones(count))
    return group


def assert_weight_and_store(group: TemplateGenerator, case: Arrays) -> None:
    """Compare the weight, and the gradient of its product with ``G`` in the store; the other gradients are left."""
    (weight,) = group.generate([0])
    (weight * as_tensor(case, "G")).sum().backward()
    assert_close(weight.detach(), as_tensor(case, "weight"), "golden")
    assert_close(group.store[0].grad.view(-1), as_tensor(case, "dtheta"), "golden")


@by_case("ssn_combine")
def test_golden_weighted_averages(case: Arrays) -> None:
    group = build(WeightedAverage, case, math.prod(case["shape"].tolist()))
    if "alpha" in case:
        group.coefficients.data.copy_(as_tensor(case, "alpha"))
    assert_weight_and_store(group, case)
    if "alpha" in case:
        assert_close(group.coefficients.grad, as_tensor(case, "dalpha"), "golden")
    assert {name for name, _ in group.named_parameters()} == {"store.0"} | (
        {"coefficients"} if "alpha" in case else set()
    )


@by_case("ssn_emb")
def test_golden_coefficients_from_embeddings(case: Arrays) -> None:
    phi = as_tensor(case, "phi")
    group = build(Embedding, case, math.prod(case["shape"].tolist()), len(phi))
    (projection,) = group.projections
    own = {"phi": group.phi, "proj_weight": projection.weight, "proj_bias": projection.bias}
    for name, parameter in own.items():
        parameter.data.copy_(as_tensor(case, name).view(parameter.shape))
    assert_close(group.all_coefficients().detach(), as_tensor(case, "alpha"), "golden")
    assert_weight_and_store(group, case)
    for name, parameter in own.items():
        assert_close(parameter.grad, as_tensor(case, f"d{name}").view(parameter.shape), "golden")


@pytest.mark.parametrize("row", table("ssn_learn_groups"), ids=lambda row: f"{row['layer_shape']} {row['num_params']}")
def test_golden_template_shapes(row: Arrays) -> None:
    shape = [extent for extent in row["layer_shape"].tolist() if extent]
    found = template_shape(shape, int(row["num_params"]), int(row["K"]))
    assert found == tuple(row["in_shape"].tolist())
    assert bool(row["ok"]) == (found != (0, 0))


@by_case("ssn_learn_groups")
def test_golden_softmax_over_stretched_templates(case: Arrays) -> None:
    count, size = int(case["block"][0]), math.prod(case["in_shape"].tolist())
    group = build(Softmax, case, size)
    own = {name: as_tensor(case, name).clone().requires_grad_() for name in own_names(case)}
    del group.coefficients
    group.coefficients = own["alpha"] if "alpha" in own else F.linear(own["phi"], own["proj_weight"], own["proj_bias"])
    masked = group.probabilities()[0] * as_tensor(case, "mask")
    assert_close(masked.detach(), as_tensor(case, "candidate_weights"), "golden")
    if "resized" in case:
        templates = as_tensor(case, "theta")[: count * size].split(size)
        resized = torch.stack([group.upsamplers["0"](template) for template in templates])
        assert_close(resized, as_tensor(case, "resized"), "golden")
    assert_weight_and_store(group, case)
    for name, tensor in own.items():
        assert_close(tensor.grad, as_tensor(case, f"d{name}"), "golden")


def own_names(case: Arrays) -> list[str]:
    return ["alpha"] if "alpha" in case else ["phi", "proj_weight", "proj_bias"]
