"""Which modules read generated weights, and from where."""

from __future__ import annotations

from torch import nn

from shapeshift.surgery.forward_pass import WeightSource

# The attributes of an attached module: where it reads its weights, the order of its parameters before, and the forms of
# those that are generated.
SOURCES = "_shapeshift_sources"
ORDER = "_shapeshift_order"
FORMS = "_shapeshift_forms"


def is_attached(module: nn.Module) -> bool:
    """Tell whether a module reads generated parameters, or is the root of a compressed model."""
    return SOURCES in module.__dict__


def original_class(module: nn.Module) -> type[nn.Module]:
    """Return the class that a module had before it was compressed, also if FSDP2 derived another since."""
    base: type[nn.Module] = getattr(type(module), "_rebuild", (type(module),))[0]
    return base


def weight_sources(module: nn.Module) -> dict[str, tuple[WeightSource, int]]:
    """Return the source and the index of each generated parameter of an attached module, by the parameter's name."""
    found: dict[str, tuple[WeightSource, int]] = module.__dict__[SOURCES]
    return found


def generated_names(model: nn.Module) -> list[str]:
    """Return the dotted name of each generated parameter of a model; all of them where a module has several paths."""
    return [
        f"{path}.{name}" if path else name
        for path, module in model.named_modules(remove_duplicate=False)
        if is_attached(module)
        for name in weight_sources(module)
    ]


def set_class(module: nn.Module, kind: type[nn.Module]) -> None:
    """Set the class of a module itself; one that stands for another would set the other's attributes."""
    object.__setattr__(module, "__class__", kind)


def is_generated(model: nn.Module, name: str) -> bool:
    """Tell whether a parameter of a model, by its dotted name, is generated; False if there is none of that name."""
    path, _, parameter = name.rpartition(".")
    try:
        module = model.get_submodule(path)
    except AttributeError:
        return False
    return is_attached(module) and parameter in weight_sources(module)
