"""Masks: pruning in a model of the same shapes, by filters that are zero and stay zero in training."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Masks:
    """Keeps entries of a model's parameters at zero; registered as the model's forward pre-hook.

    Gradients of the entries are set to zero as soon as they are accumulated, so an optimizer with momentum or weight
    decay does not change the entries. Values from elsewhere, such as those loaded into the model, are set to zero
    before the next forward pass.

    Args:
        entries: The dimension of channels, and the channels, of each parameter, by its dotted name.
    """

    def __init__(self, entries: Mapping[str, tuple[int, tuple[int, ...]]]) -> None:
        self.entries = dict(entries)
        self._watched: dict[str, weakref.ref[Tensor]] = {}

    def __call__(self, model: nn.Module, *_: Any) -> None:
        self.apply(model)

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Set the entries to zero, and watch the gradients of parameters that are not watched yet."""
        parameters = dict(model.named_parameters())
        for name, (dim, channels) in self.entries.items():
            parameter = parameters[name]
            indices = torch.tensor(channels, device=parameter.device)
            parameter.index_fill_(dim, indices, 0)
            watched = self._watched.get(name)
            if parameter.requires_grad and (watched is None or watched() is not parameter):
                parameter.register_post_accumulate_grad_hook(_Drop(dim, indices))
                self._watched[name] = weakref.ref(parameter)

    def __getstate__(self) -> dict[str, Any]:
        # A copy has parameters of its own, which are not watched yet.
        return {"entries": self.entries, "_watched": {}}


class _Drop:
    """Sets entries of a parameter's gradient to zero."""

    def __init__(self, dim: int, indices: Tensor) -> None:
        self.dim = dim
        self.indices = indices

    def __call__(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            parameter.grad.index_fill_(self.dim, self.indices.to(parameter.grad.device), 0)


def mask(model: nn.Module, entries: Mapping[str, tuple[int, tuple[int, ...]]]) -> None:
    """Set entries of a model's parameters to zero, in place, and keep them there."""
    masks = Masks(entries)
    masks.apply(model)
    model.register_forward_pre_hook(masks)


def unmask(model: nn.Module) -> None:
    """Remove the masks of a model, in place; the entries stay zero until they are trained."""
    for key, hook in list(model._forward_pre_hooks.items()):
        if isinstance(hook, Masks):
            del model._forward_pre_hooks[key]


def is_masked(model: nn.Module) -> bool:
    """Return whether entries of a model's parameters are kept at zero."""
    return any(isinstance(hook, Masks) for hook in model._forward_pre_hooks.values())
