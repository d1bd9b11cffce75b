"""Tensors of which each process holds a part, as FSDP2 makes them."""

from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Tell whether a tensor is a ``DTensor``, whose class takes long to import."""
    return hasattr(tensor, "full_tensor")
