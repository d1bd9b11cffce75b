"""Whether operations run as they are called."""

from __future__ import annotations

import torch


def is_eager() -> bool:
    """Tell whether no compiler, tracer or function transform is looking on: these want plain operations."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    return not torch._C._are_functorch_transforms_active()
