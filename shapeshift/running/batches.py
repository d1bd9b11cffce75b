"""Batches: the batches of a data loader, and the arguments of a model in them.

A tuple has two meanings. A loader yields ``(x, y)``, of which a model takes ``x``: :func:`read_batch`. A caller who
passes on the arguments of a forward pass writes ``(x1, x2)``, of which it takes both: :func:`call_model`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from shapeshift.errors import DataError

# The names that transformers' collators give to targets: with one of them a model also returns a loss.
_TARGETS = {"label", "labels", "label_ids"}


@dataclass(frozen=True)
class Inputs:
    """The arguments of one forward pass.

    Attributes:
        args: The positional arguments.
        kwargs: The keyword arguments.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self, model: nn.Module) -> Any:
        """Call a model with the arguments."""
        return model(*self.args, **self.kwargs)

    def example(self) -> Inputs:
        """Return the first sample as a batch of one."""
        args, kwargs = tree_map_only(
            Tensor, lambda tensor: tensor[:1] if tensor.ndim else tensor, (self.args, self.kwargs)
        )
        return Inputs(args, kwargs)


def read_batch(batch: Any, device: torch.device) -> Inputs:
    """Read the model's arguments in a batch that a loader yields; a tuple or list is ``(x, y, ...)``.

    Args:
        batch: The batch: ``x``, ``(x, y, ...)``, or a dict of keyword arguments, whose labels are left out. ``x`` may
            itself be such a dict.
        device: The device that its tensors are moved to.

    Raises:
        DataError: If the batch holds no tensor.
    """
    if isinstance(batch, list | tuple) and batch:
        return read_batch(batch[0], device)
    moved = tree_map_only(Tensor, lambda tensor: tensor.to(device), batch)
    if isinstance(batch, Mapping):
        kwargs = {str(name): value for name, value in dict(moved).items() if name not in _TARGETS}
        inputs = Inputs((), kwargs)
    else:
        inputs = Inputs((moved,), {})
    if not any(isinstance(leaf, Tensor) for leaf in tree_leaves((inputs.args, inputs.kwargs))):
        raise DataError(
            f"the loader yields {type(batch).__name__}, which holds no tensor; "
            "it has to yield x, (x, y), or a dict of the model's arguments"
        )
    return inputs


def call_model(model: nn.Module, x: Any) -> Any:
    """Call a model with given arguments; a tuple or list is ``(x1, x2, ...)``.

    Args:
        model: The model.
        x: A tensor, a tuple or list of positional arguments, or a dict of keyword arguments.

    Returns:
        The model's output.
    """
    if isinstance(x, Mapping):
        return model(**x)
    return model(*x) if isinstance(x, tuple | list) else model(x)


class Batches:
    """The batches of a loader, of which the first one is known in advance.

    Args:
        loader: The loader; it is iterated over once.

    Attributes:
        first: The first batch.

    Raises:
        DataError: If the loader is empty.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self._loader = loader
        self._rest = iter(loader)
        try:
            self.first = next(self._rest)
        except StopIteration:
            raise DataError(
                "the loader is empty: at least one batch is needed (a generator that was read is used up)"
            ) from None

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain([self.first], self._rest)

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter or buffer; the CPU if it has neither."""
    return next((tensor.device for tensor in itertools.chain(model.parameters(), model.buffers())), torch.device("cpu"))
