"""The model inside a wrapper."""

from __future__ import annotations

from torch import nn

_WRAPPERS = {"torch._dynamo": "_orig_mod", "torch.nn.parallel": "module", "torch.distributed": "module"}


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside what ``torch.compile`` and ``DistributedDataParallel`` put around it."""
    while True:
        home = type(model).__module__
        names = [name for prefix, name in _WRAPPERS.items() if home.startswith(prefix)]
        if not names or not isinstance(getattr(model, names[0], None), nn.Module):
            return model
        model = getattr(model, names[0])


def compiled_from(model: nn.Module) -> nn.Module:
    """Return the module that ``torch.compile`` made a model from, or the model itself."""
    inner = getattr(model, "_modules", {}).get("_orig_mod")
    return model if inner is None else inner
