"""The similarity of layers, and the regulariser that raises it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import shapeshift
from shapeshift.errors import ModelError
from shapeshift.recurrence import (
    fold,
    layer_similarity,
    regulariser,
    similarity,
    soft_share,
)
from shapeshift.surgery.roots import require_shared
from tests.foldable import members, wrn
from tests.models import mlp
from tests.tolerances import assert_close


def test_similarity_is_that_of_the_weights_themselves() -> None:
    model = soft_share(wrn(), 3)
    matrix = similarity(model)["stage1_8x8x3x3"]
    assert matrix.shape == (4, 4)
    assert not matrix.requires_grad
    group = require_shared(model)["stage1_8x8x3x3"]
    with torch.no_grad():
        # Templates that are orthonormal keep the angles between the coefficients.
        basis = torch.linalg.qr(torch.randn(group.weights[0].numel, 3))[0]
        group.store[0].copy_(basis.T.reshape(-1, 1))
        weights = torch.stack(group.generate(range(4))).flatten(1)
    assert_close(matrix, F.cosine_similarity(weights[:, None], weights[None], dim=2).abs(), "reordered")


def test_similarity_of_coefficients_from_embeddings_and_of_one_template() -> None:
    store = 3 * 16 * 16
    model = shapeshift.compress(mlp(16, 3), shapeshift.count_parameters(mlp(16, 3)) * 3, mapping="shape", combine="emb")
    with pytest.raises(ModelError, match="Sequential has no group of layers that mix the same templates"):
        similarity(model)
    model = soft_share(mlp(16, 3), 1)
    assert_close(similarity(model)["stage1_16x16"], torch.ones(3, 3), "reordered")
    assert shapeshift.count_parameters(soft_share(mlp(16, 3), 3)) == store + 9 + 3 * 16 + 16 * 4 + 4


def test_only_a_compressed_model_has_a_similarity() -> None:
    for call in (similarity, lambda model: regulariser(model, 1.0), fold):
        with pytest.raises(ModelError, match="is not compressed"):
            call(wrn())


def test_similarity_is_not_rounded_under_autocast() -> None:
    rows = torch.randn(5, 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer_similarity(rows)
    assert_close(found, layer_similarity(rows), "identical")


def test_the_regulariser_is_the_mean_dissimilarity() -> None:
    model = soft_share(wrn(), 3)
    loss = regulariser(model, 0.5)
    expected = [1 - matrix[~torch.eye(len(matrix), dtype=torch.bool)].mean() for matrix in similarity(model).values()]
    assert loss.shape == ()
    assert_close(loss.detach(), 0.5 * torch.stack(expected).mean(), "reordered")
    loss.backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient == {f"shapeshift.{name}.coefficients" for name in members(model)}
    assert all(group.coefficients.grad.abs().max() > 0 for group in require_shared(model).generators())


@pytest.mark.parametrize("templates", [2, None])
def test_the_regulariser_raises_every_similarity(templates: int | None) -> None:
    torch.manual_seed(0)
    model = soft_share(wrn(), templates)
    before = similarity(model)
    optimizer = torch.optim.SGD([group.coefficients for group in require_shared(model).generators()], 0.5)
    for _ in range(200):
        optimizer.zero_grad()
        regulariser(model, 1.0).backward()
        optimizer.step()
    for name, matrix in similarity(model).items():
        assert matrix.mean() > 0.9 > before[name].mean()
