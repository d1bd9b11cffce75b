"""Rows of blocks: neighbouring modules of one class and with parameters of equal shapes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from torch import nn

from shapeshift.surgery.attached import is_attached, original_class, weight_sources
from shapeshift.surgery.shared_parameters import SharedParameters
from shapeshift.weights import is_weight_shape


@dataclass(frozen=True)
class BlockRow:
    """A row of neighbouring modules of one class, with parameters of equal names and shapes.

    Attributes:
        steps: The dotted paths of the modules, in the model's order.
    """

    steps: tuple[str, ...]


def find_rows(model: nn.Module) -> list[BlockRow]:
    """Find the rows of two or more neighbouring modules with the same structure.

    The outermost rows count: the blocks of a stage, and not the layers in them. Modules without weights, such as
    activations and norms between convolutions, do not interrupt a row. The first block of a stage, which changes the
    number of channels, differs from the others and is in no row with them. A module without such neighbours is
    searched for rows inside it.

    Args:
        model: A plain or a compressed model. It is not changed.

    Returns:
        The rows, in the model's order.
    """
    rows: list[BlockRow] = []
    _search(model, "", rows)
    return rows


def parameter_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter in a module, generated or not, by its dotted path."""
    found: dict[str, tuple[int, ...]] = {}
    for path, part in module.named_modules():
        prefix = f"{path}." if path else ""
        found |= {prefix + name: tuple(p.shape) for name, p in part._parameters.items() if p is not None}
        if is_attached(part):
            found |= {
                prefix + name: source.weights[index].shape for name, (source, index) in weight_sources(part).items()
            }
    return found


def _search(module: nn.Module, path: str, rows: list[BlockRow]) -> None:
    """Append the rows inside a module to a list."""
    children = [
        (f"{path}.{name}" if path else name, child, _structure(child))
        for name, child in module.named_children()
        if not isinstance(child, SharedParameters)
    ]
    with_weights = [child for child in children if any(is_weight_shape(shape) for _, shape in child[2][1])]
    for _, row in itertools.groupby(with_weights, key=lambda child: child[2]):
        blocks = list(row)
        if len(blocks) > 1:
            rows.append(BlockRow(tuple(name for name, _, _ in blocks)))
        else:
            name, child, _ = blocks[0]
            _search(child, name, rows)


def _structure(module: nn.Module) -> tuple[type, tuple[tuple[str, Any], ...]]:
    """Return the class and the parameter shapes of a module, which are equal for the blocks of a row."""
    return original_class(module), tuple(sorted(parameter_shapes(module).items()))
