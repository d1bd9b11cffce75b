"""Truncated singular value decompositions of each layer, a baseline on trained networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import shapeshift
from shapeshift.errors import BudgetError

LAYERS = (nn.Linear, nn.Embedding, nn.Conv2d)


@torch.no_grad()
def factorise(model: nn.Module, budget: int) -> nn.Module:
    """Replace the layers of a trained model by pairs of layers of lower rank, within a budget.

    All layers keep the same share of the parameters that their weights have, down to rank one. A layer that two factors
    would not make smaller stays whole. A convolution becomes one with fewer filters and a pointwise one.

    Args:
        model: A model of linear layers, embeddings and convolutions without groups. It is changed in place.
        budget: The largest number of parameters that it may have.

    Returns:
        The same model.

    Raises:
        BudgetError: If layers of rank one have more parameters than that.
    """
    layers = {path: module for path, module in model.named_modules() if isinstance(module, LAYERS)}
    sizes = {path: _matrix(module).shape for path, module in layers.items()}
    rest = shapeshift.count_parameters(model) - sum(rows * columns for rows, columns in sizes.values())

    def ranks(share: float) -> dict[str, int]:
        return {path: max(1, int(share * rows * columns / (rows + columns))) for path, (rows, columns) in sizes.items()}

    def total(share: float) -> int:
        return rest + sum(min(ranks(share)[path] * (m + n), m * n) for path, (m, n) in sizes.items())

    if total(0.0) > budget:
        raise BudgetError(f"rank one has {total(0.0):,} parameters, more than {budget:,}; give a larger budget")
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if total(middle) <= budget else (low, middle)
    for path, rank in ranks(low).items():
        rows, columns = sizes[path]
        if rank * (rows + columns) < rows * columns:
            model.set_submodule(path, _pair(layers[path], rank))
    return model


def _matrix(layer: nn.Module) -> Tensor:
    """Return a weight as the matrix that a layer multiplies its input by from the left."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight.T if isinstance(layer, nn.Embedding) else weight.flatten(1)


def _pair(layer: nn.Module, rank: int) -> nn.Module:
    left, values, right = torch.linalg.svd(_matrix(layer), full_matrices=False)
    outer, inner = left[:, :rank] * values[:rank].sqrt(), values[:rank, None].sqrt() * right[:rank]
    first: nn.Module
    second: nn.Module
    if isinstance(layer, nn.Embedding):
        first = nn.Embedding(layer.num_embeddings, rank, layer.padding_idx)
        second = nn.Linear(rank, layer.embedding_dim, bias=False)
        inner = inner.T
    elif isinstance(layer, nn.Conv2d):
        kernel, stride, padding = layer.kernel_size, layer.stride, layer.padding
        first = nn.Conv2d(layer.in_channels, rank, kernel, stride, padding, bias=False)  # type: ignore[arg-type]
        second = nn.Conv2d(rank, layer.out_channels, 1, bias=layer.bias is not None)
    else:
        assert isinstance(layer, nn.Linear)
        first = nn.Linear(layer.in_features, rank, bias=False)
        second = nn.Linear(rank, layer.out_features, bias=layer.bias is not None)
    pair = nn.Sequential(first, second).to(inner.device)
    first.weight.copy_(inner.reshape(first.weight.shape))  # type: ignore[union-attr,operator,arg-type]
    second.weight.copy_(outer.reshape(second.weight.shape))  # type: ignore[union-attr,operator,arg-type]
    if (bias := getattr(layer, "bias", None)) is not None:
        second.bias.copy_(bias)  # type: ignore[union-attr,operator]
    return pair
