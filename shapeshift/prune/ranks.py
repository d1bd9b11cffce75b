"""Numerical ranks of many small matrices."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# The number of entries that are processed at once; the working memory is a few times 8 bytes per entry.
_CHUNK = 2**18


def matrix_ranks(maps: Tensor) -> Tensor:
    """Count the singular values of each matrix above ``largest * max(H, W) * eps``, with the eps of float32.

    The squares of the singular values are the eigenvalues of the Gram matrix, which is computed in float64: the
    rounding errors are far below the square of the threshold. Matrices whose full rank a Cholesky factorization proves
    need no eigenvalues.

    Args:
        maps: The matrices, of any floating-point dtype and of shape (N, ..., H, W). A bounded number of them is
            processed at a time.

    Returns:
        The ranks, int64 of shape (N, ...); -1 for a matrix with entries that are not finite.
    """
    height, width = maps.shape[-2:]
    ranks = maps.new_empty(maps.shape[:-2], dtype=torch.int64)
    # Split by images first: a reshape may copy, and then copies one chunk only.
    size = max(1, _CHUNK // max(1, math.prod(maps.shape[1:])))
    for chunk, found in zip(maps.split(size), ranks.split(size), strict=True):
        if maps.ndim > 3:
            found.copy_(matrix_ranks(chunk.reshape(-1, height, width)).view(found.shape))
        else:
            found.copy_(_ranks(chunk if height <= width else chunk.mT, max(height, width)))
    return ranks


def _ranks(maps: Tensor, side: int) -> Tensor:
    """Return the ranks of a few matrices of shape (N, H, W) with H <= W, given the longer side of the originals."""
    relative = (side * torch.finfo(torch.float32).eps) ** 2
    exact = maps.double()
    gram = exact @ exact.mT
    # The trace is an upper bound of the largest eigenvalue.
    trace = gram.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
    finite = trace.isfinite()
    gram = torch.where(finite[..., None], gram, 0)
    diagonal = gram.diagonal(dim1=1, dim2=2)
    # Rows of zeros are frequent after ReLU, and left out. If the rest, minus the bound on the threshold, has a Cholesky
    # factorization, all of its eigenvalues exceed the threshold.
    alive = diagonal > 0
    shifted = gram.clone()
    shifted.diagonal(dim1=1, dim2=2).copy_(torch.where(alive, diagonal - relative * trace, 1))
    _, failed = torch.linalg.cholesky_ex(shifted)
    ranks = torch.where(finite[:, 0], alive.sum(1), -1)
    unproven = failed.nonzero().flatten()
    if len(unproven):
        eigenvalues = torch.linalg.eigvalsh(gram[unproven])
        ranks[unproven] = (eigenvalues > relative * eigenvalues[:, -1:]).sum(1)
    return ranks
