"""Starting values that are no noise: what they have is lost where a weight starts as noise of equal deviation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from shapeshift.errors import ModelError, ShapeshiftWarning

if TYPE_CHECKING:
    from shapeshift.weights import Weight

# Rows that are compared with one another. It bounds the time, and rows beyond have the structure of the first ones.
_ROWS = 32
# The least share of zeros, outside of rows that are zero as a whole. Noise has none.
_ZEROS = 0.05
# Rows of noise have a correlation of about 1 / sqrt(their length); these are the bounds as parts of that.
_ORTHOGONAL, _ORTHOGONAL_PAIR = 0.02, 2e-5
# The least eigenvalue of the correlations of rows that are linearly dependent, in float32 precision.
_DEPENDENT = 1e-12
# Shorter rows of noise are orthogonal or equal by chance.
_LEAST_LENGTH = 4


class Frozen:
    """The rows of a model's frozen parameters, in which copies of them are looked up.

    Args:
        model: The model; it is not changed.
    """

    def __init__(self, model: nn.Module) -> None:
        self._rows: dict[int, list[Tensor]] = {}
        for parameter in model.parameters():
            has_rows = parameter.ndim > 1 and parameter.numel() and not parameter.is_meta
            if has_rows and parameter.is_floating_point() and not parameter.requires_grad:
                rows = parameter.detach().flatten(1)
                self._rows.setdefault(rows.shape[1], []).append(rows)
        self._first = {width: [rows[:, 0] for rows in found] for width, found in self._rows.items()}

    def hold(self, rows: Tensor) -> bool:
        """Tell whether one of the first rows of a matrix is a row of a frozen parameter."""
        for row in rows[:_LEAST_LENGTH]:
            if not row.any():
                continue
            for first, frozen in zip(self._first.get(len(row), ()), self._rows.get(len(row), ()), strict=True):
                same = first == row[0] if first.device == row.device else None
                if same is not None and same.any() and (frozen[same] == row).all(1).any():
                    return True
        return False


@torch.no_grad()
def structure_of(values: Tensor, frozen: Frozen) -> str:
    """Name the structure that starting values have and noise lacks; empty for noise.

    Args:
        values: The starting values, of two or more dimensions, not all zero.
        frozen: The frozen parameters of the model.
    """
    rows = values.detach().flatten(1)
    if rows.shape[1] >= _LEAST_LENGTH and frozen.hold(rows):
        return "copies of frozen weights"
    if _are_dependent(rows) or _are_dependent(rows.T):
        return "linearly dependent rows or columns"
    if _has_zeros(rows) and _has_zeros(rows[rows.any(1)]):
        return "zeros among other values"
    matrix = _correlations(rows if len(rows) <= rows.shape[1] else rows.T, _ROWS)
    places = torch.triu_indices(len(matrix), len(matrix), 1, device=matrix.device)
    pairs = matrix[places[0], places[1]]
    bound = (_ORTHOGONAL if len(pairs) > 1 else _ORTHOGONAL_PAIR) / max(rows.shape) ** 0.5
    is_orthogonal = len(pairs) and max(rows.shape) >= _LEAST_LENGTH and pairs.square().mean().sqrt().item() < bound
    return "orthogonal rows or columns" if is_orthogonal else ""


def _are_dependent(rows: Tensor) -> bool:
    """Tell whether the first rows of a matrix are linearly dependent; noise is not, in rows of twice their number."""
    matrix = _correlations(rows, min(_ROWS, rows.shape[1] // 2))
    return len(matrix) > 1 and torch.linalg.eigvalsh(matrix)[0].item() < _DEPENDENT


def _has_zeros(rows: Tensor) -> bool:
    return rows.count_nonzero().item() < (1 - _ZEROS) * rows.numel()


def _correlations(rows: Tensor, number: int) -> Tensor:
    """Return the correlations of the first rows of a matrix that are not zero."""
    rows = rows[:number].double()
    rows = torch.nn.functional.normalize(rows[rows.any(1)], eps=1e-300)
    return rows @ rows.T


def check_starts(model: nn.Module, weights: Sequence[Weight]) -> None:
    """Warn of weights whose starting values have a structure that generated ones lack; refuse those of adapters.

    Args:
        model: The model.
        weights: The weights that will start as noise.

    Warns:
        ShapeshiftWarning: If a layer starts with such values.

    Raises:
        ModelError: If an adapter does, whose first output would not be that of its base model.
    """
    found = [weight for weight in weights if weight.structure]
    if not found:
        return
    adapters = [weight for weight in found if _is_counted_on(model, weight)]
    chosen = adapters or found
    shown = ", ".join(f"{weight.name} {weight.shape}" for weight in chosen[:3])
    more = f" and {len(chosen) - 3} more" if len(chosen) > 3 else ""
    kinds = " or ".join(dict.fromkeys(weight.structure for weight in chosen))
    what = f"{shown}{more} start with {kinds}, and would start as noise of equal deviation"
    excluded = f"exclude={[weight.name for weight in chosen[:3]]!r}{' and so on' if more else ''}"
    if adapters:
        raise ModelError(
            f"{what}: the first output would not be that of the base model. Keep them out with {excluded}; start the "
            'adapter as noise, such as init_lora_weights=True; or give init="fit", which is exact from a budget of '
            "100% on"
        )
    warnings.warn(f'{what}. Give init="fit" to keep them, or {excluded}', ShapeshiftWarning, stacklevel=4)


def _is_counted_on(model: nn.Module, weight: Weight) -> bool:
    """Tell whether frozen weights count on a weight's values: it is a copy of some, or of an adapter as PEFT's are."""
    if weight.structure == "copies of frozen weights":
        return True
    parts = weight.name.split(".")[:-1]
    around = (model.get_submodule(".".join(parts[:end])) for end in range(1, len(parts) + 1))
    return any(isinstance(getattr(module, "base_layer", None), nn.Module) for module in around)
