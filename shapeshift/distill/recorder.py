"""Recorders: hooks that keep features of a model's forward passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shapeshift.distill.features import Feature
from shapeshift.distill.trace import first_tensor
from shapeshift.errors import ModelError


@dataclass(frozen=True)
class Pass:
    """The features and the output of a forward pass.

    Attributes:
        features: Maps of shape (N, channels, rows, columns), in the order of the places where they were read.
        output: The output of the model.
    """

    features: list[Tensor]
    output: Any


class Recorder:
    """Keeps features of a model's last forward pass, and its output, until they are taken.

    Copies and pickles of the model have no hooks: a running average of a student's weights records nothing.

    Args:
        model: The model, without a wrapper around it.
        features: The places to read.
        only_with_gradients: Whether passes without gradients, such as an evaluation, are ignored.
    """

    def __init__(self, model: nn.Module, features: Sequence[Feature], only_with_gradients: bool) -> None:
        self.features = tuple(features)
        self._model = model
        self._only_with_gradients = only_with_gradients
        # Gradient checkpointing calls hooks again in the backward pass; recording then would keep the graph of a block.
        self._is_running = False
        self._kept: dict[str, Any] = {}
        self._handles: list[Any] = [
            model.register_forward_pre_hook(_Hook(self._begin), with_kwargs=True),
            model.register_forward_hook(_Hook(self._end)),
        ]
        for index, feature in enumerate(self.features):
            module, keep = model.get_submodule(feature.path), _Hook(self._keep(str(index), feature))
            self._handles.append(
                module.register_forward_pre_hook(keep, with_kwargs=True)
                if feature.side == "input"
                else module.register_forward_hook(keep)
            )

    def _counts(self) -> bool:
        return torch.is_grad_enabled() or not self._only_with_gradients

    def _begin(self, args: Any, kwargs: Any) -> None:
        self._is_running = self._counts()
        if self._is_running:
            self._kept = {}

    def _end(self, args: Any, output: Any) -> None:
        if self._is_running:
            self._kept["output"] = output
        self._is_running = False

    def _keep(self, key: str, feature: Feature) -> Callable[[Any, Any], None]:
        of_input, is_overwritten = feature.side == "input", feature.is_overwritten

        def keep(args: Any, kwargs_or_output: Any) -> None:
            # Reentrant checkpointing runs blocks without gradients within a pass with gradients.
            if self._is_running and self._counts():
                tensor = first_tensor((args, kwargs_or_output) if of_input else kwargs_or_output)
                self._kept[key] = tensor.clone() if is_overwritten and tensor is not None else tensor

        return keep

    def take(self) -> Pass:
        """Return the last pass, and forget it.

        Raises:
            ModelError: If there was no pass since the last call, or the hooks are removed.
        """
        name = type(self._model).__name__
        if not self._handles:
            raise ModelError(f"the hooks on {name} are removed, because the distiller was closed; build a new one")
        kept = self._kept.copy()
        self._kept.clear()
        missing = [str(feature) for index, feature in enumerate(self.features) if str(index) not in kept]
        if missing or "output" not in kept:
            raise ModelError(
                f"{name}: {missing[0] if missing else 'its output'} was not recorded since the last call of the "
                "distiller. Run the model on the batch first, with gradients and not under reentrant checkpointing. If "
                "the model is compiled, build the distiller before the first run, and call torch.compiler.reset() "
                "before that if another model of this class was compiled. A copy of a distiller records nothing"
            )
        features = [feature.as_maps(kept[str(index)]) for index, feature in enumerate(self.features)]
        return Pass(features, kept["output"])

    def close(self) -> None:
        """Remove the hooks, and forget the last pass."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._kept.clear()


class _Hook:
    """A forward hook, or a pre-hook with keyword arguments, that copies of the model lose."""

    def __init__(self, act: Callable[[Any, Any], None]) -> None:
        self.act = act

    def __call__(self, module: nn.Module, args: Any, kwargs_or_output: Any) -> None:
        self.act(args, kwargs_or_output)

    def __reduce__(self) -> tuple[Any, ...]:
        return _no_hook, ()


def _no_hook() -> Callable[..., None]:
    """Return the hook of a copied model, which does nothing."""
    return _nothing


def _nothing(*args: Any) -> None: ...
