"""Finding the compressed model in a module that a user passes."""

from __future__ import annotations

from torch import nn

from shapeshift.errors import ModelError
from shapeshift.surgery.attached import is_attached, weight_sources
from shapeshift.surgery.orphans import is_orphan
from shapeshift.surgery.shared_parameters import ATTRIBUTE, SharedParameters


def find_roots(model: nn.Module) -> list[nn.Module]:
    """Return the roots of the compressed models in a module, which may wrap one (as DDP does) or hold several."""
    return [module for module in model.modules() if is_attached(module) and ATTRIBUTE in module._modules]


def find_root(model: nn.Module) -> nn.Module | None:
    """Return the root of the one compressed model in a module; None without one.

    Raises:
        ModelError: if there are several.
    """
    roots = find_roots(model)
    if len(roots) > 1:
        paths = [path for path, module in model.named_modules() if any(module is root for root in roots)]
        raise ModelError(
            f"{type(model).__name__} holds {len(roots)} compressed models: {', '.join(paths)}; take them one by one"
        )
    return roots[0] if roots else None


def is_copied_part(model: nn.Module) -> bool:
    """Tell whether all generated weights of a module come from shared parameters that are in no model."""
    places = [place for found in model.modules() if is_attached(found) for place in weight_sources(found).values()]
    return bool(places) and all(is_orphan(source) for source, _ in places)


def check_registered(root: nn.Module) -> None:
    """Raise if a layer of a compressed model reads shared parameters that the model does not hold.

    Raises:
        ModelError: if so.
    """
    attached = [module for module in root.modules() if is_attached(module)]
    registered = {
        source for module in attached if ATTRIBUTE in module._modules for source in getattr(module, ATTRIBUTE).sources
    }
    for module in attached:
        for name, (source, index) in weight_sources(module).items():
            if source not in registered:
                path = next(path for path, found in root.named_modules() if found is module)
                raise ModelError(
                    f"{path}.{name} {source.weights[index].shape} is generated from shared parameters that the model "
                    "does not hold: its layer is a copy of a compressed one, or belongs to another model. They are "
                    "not trained with this model, and its state lacks them. Add a plain layer, as "
                    "shapeshift.materialize(copy.deepcopy(layer)) returns, or call shapeshift.materialize(model) first"
                )


def require_root(model: nn.Module) -> nn.Module:
    """Return the root of the one compressed model in a module.

    Raises:
        ModelError: if there is none, or several, or a layer reads shared parameters that are not in the model.
    """
    root = find_root(model)
    if root is None and is_compressed(model):
        raise ModelError(
            f"{type(model).__name__} is a part of a compressed model, without the parameters that its weights are "
            "generated from: take the whole model, a plain copy of the part, by "
            "shapeshift.materialize(copy.deepcopy(part)), or a member of a family, by family.extract(index)"
        )
    if root is None:
        raise ModelError(f"{type(model).__name__} is not compressed; call shapeshift.compress(model, budget) first")
    check_registered(root)
    return root


def require_shared(model: nn.Module) -> SharedParameters:
    """Return the owner of a compressed model's shared parameters.

    Raises:
        ModelError: if the model is not compressed, or holds several that are.
    """
    shared: SharedParameters = getattr(require_root(model), ATTRIBUTE)
    return shared


def is_compressed(model: nn.Module) -> bool:
    """Tell whether a model is compressed, holds one that is, or is a part of one.

    Args:
        model: Any module.

    Returns:
        True if any module in it reads generated weights.

    Example:
        >>> import torch, shapeshift
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 8))
        >>> shapeshift.is_compressed(model), shapeshift.is_compressed(shapeshift.compress(model, "25%"))
        (False, True)
    """
    return any(map(is_attached, model.modules()))
