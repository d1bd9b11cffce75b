"""What a loader yields, as the arguments of a model."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from shapeshift.errors import DataError

# What transformers' collators call the targets: with them a model returns a loss beside its outputs.
_TARGETS = {"label", "labels", "label_ids"}


@dataclass(frozen=True)
class Inputs:
    """The arguments of one forward pass.

    Attributes:
        args: by position.
        kwargs: by name.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self, model: nn.Module) -> Any:
        """Call a model."""
        return model(*self.args, **self.kwargs)

    def example(self) -> Inputs:
        """Return the first image as a batch of one."""
        args, kwargs = tree_map_only(
            Tensor, lambda tensor: tensor[:1] if tensor.ndim else tensor, (self.args, self.kwargs)
        )
        return Inputs(args, kwargs)


def read_batch(batch: Any, device: torch.device) -> Inputs:
    """Read one batch of a loader.

    Args:
        batch: ``x``, ``(x, y, ...)``, or a dict of arguments, in which labels are left out; ``x`` may itself be a dict.
        device: where to put its tensors.

    Raises:
        DataError: if it holds no tensor.
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


class Batches:
    """The batches of a loader, the first of which can be looked at before.

    Args:
        loader: it is iterated over once.

    Attributes:
        first: the first batch.

    Raises:
        DataError: if it has no batch.
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
