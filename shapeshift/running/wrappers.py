"""Wrappers around a model: those of ``torch.compile`` and of data parallelism."""

from __future__ import annotations

from torch import nn

# The attribute that holds the wrapped model, by the package that the wrapper's class is from.
_ATTRIBUTES = {"torch._dynamo": "_orig_mod", "torch.nn.parallel": "module", "torch.distributed": "module"}


def wrapped_attribute(model: nn.Module) -> str | None:
    """Return the name of the attribute in which a wrapper holds its model; None if the model is no wrapper."""
    home = type(model).__module__
    name = next((name for package, name in _ATTRIBUTES.items() if home.startswith(package)), "")
    return name if isinstance(getattr(model, name, None), nn.Module) else None


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside all wrappers around it, such as those of ``torch.compile`` and DDP."""
    while (name := wrapped_attribute(model)) is not None:
        model = getattr(model, name)
    return model


def compiled_from(model: nn.Module) -> nn.Module:
    """Return the module that ``torch.compile`` wrapped, or the model itself; other wrappers stay."""
    return model.get_submodule("_orig_mod") if wrapped_attribute(model) == "_orig_mod" else model
