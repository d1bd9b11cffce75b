"""The ranks of matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shapeshift.prune.ranks import matrix_ranks


def rank_by_definition(matrix: Tensor) -> int:
    values = torch.linalg.svdvals(matrix.double())
    return int((values > values[0] * max(matrix.shape) * torch.finfo(torch.float32).eps).sum())


MATRICES = {
    "full": lambda: torch.randn(20, 8, 8),
    "rectified": lambda: torch.randn(40, 16, 16).sub(0.5).relu(),
    "of few rows": lambda: torch.randn(20, 3, 11),
    "of few columns": lambda: torch.randn(20, 11, 3),
    "products": lambda: torch.randn(20, 12, 5) @ torch.randn(20, 5, 12),
    "smooth": lambda: F.interpolate(torch.randn(20, 1, 4, 4), size=(16, 16), mode="bilinear")[:, 0],
    "with empty rows": lambda: torch.randn(20, 9, 9) * (torch.rand(20, 9, 1) > 0.4),
    "with empty columns": lambda: torch.randn(20, 9, 9) * (torch.rand(20, 1, 9) > 0.4),
    "empty": lambda: torch.zeros(3, 6, 6),
    "pixels": lambda: torch.tensor([0.0, 2.0]).view(2, 1, 1),
    "large and small": lambda: torch.randn(20, 7, 7) * torch.logspace(-15, 15, 20).view(20, 1, 1),
    "near the threshold": lambda: torch.diag_embed(torch.tensor([[1.0, 5e-7, 5e-7], [1.0, 2e-7, 2e-7]])),
    "half": lambda: torch.randn(20, 8, 8).bfloat16(),
    "double": lambda: torch.randn(20, 8, 8).double(),
}


@pytest.mark.parametrize("kind", MATRICES)
def test_ranks_are_those_of_the_definition(kind: str) -> None:
    matrices = MATRICES[kind]()
    assert matrix_ranks(matrices).tolist() == [rank_by_definition(matrix) for matrix in matrices]


def test_a_matrix_that_is_not_finite_has_no_rank() -> None:
    matrices = torch.eye(4).repeat(3, 1, 1)
    matrices[0, 1, 2], matrices[2, 0, 0] = torch.nan, torch.inf
    assert matrix_ranks(matrices).tolist() == [-1, 4, -1]


def test_ranks_keep_the_leading_shape_and_take_none() -> None:
    assert matrix_ranks(torch.randn(2, 3, 4, 5)).shape == (2, 3)
    assert matrix_ranks(torch.zeros(0, 3, 4, 4)).shape == (0, 3)


def test_ranks_work_on_a_bounded_number_of_maps_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    factorize = torch.linalg.cholesky_ex

    def counting(matrices: Tensor) -> Any:
        sizes.append(matrices.numel())
        return factorize(matrices)

    monkeypatch.setattr(torch.linalg, "cholesky_ex", counting)
    for shape in ((40, 64, 16, 16), (3, 4000, 16, 16), (5000, 16, 16)):
        sizes.clear()
        assert torch.equal(matrix_ranks(torch.ones(shape)), torch.ones(shape[:-2], dtype=torch.int64))
        assert sum(sizes) == torch.Size(shape).numel()
        assert max(sizes) <= 2**18
        assert len(sizes) > 1
