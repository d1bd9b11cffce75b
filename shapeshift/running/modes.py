"""Modes that a model or an operation runs in: evaluation, eager, sharded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx._symbolic_trace import is_fx_symbolic_tracing


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and restore the mode of each module afterwards."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


@contextmanager
def unfused() -> Iterator[None]:
    """Let torch's own transformer layers run their parts one by one, so that hooks and counters see them."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def is_eager() -> bool:
    """Return whether no compiler, tracer or function transform is active; these need plain operations."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    if is_fx_symbolic_tracing():  # torch.fx.experimental.make_fx traces operations
        return False
    if forward_ad._current_level >= 0:  # dual numbers, whose tangents follow plain operations
        return False
    return not torch._C._are_functorch_transforms_active()


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is a ``DTensor``, without the slow import of that class."""
    return hasattr(tensor, "full_tensor")
