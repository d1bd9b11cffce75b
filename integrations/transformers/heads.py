"""Fitting the recipe of a compressed model to a model of the same base and another head."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from torch import nn

from shapeshift.checkpoint.checkpoint import Checkpoint
from shapeshift.weights import Weight

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Fit:
    """The recipe of a checkpoint, in the names of the model that it is loaded into.

    Attributes:
        root: The module to compress.
        checkpoint: The recipe. A weight of the plan that the root lacks has no name there.
        lost: The names in the checkpoint of the weights that the root lacks.
        mismatched: For each weight that has another shape in the model: its name there, the shape in the checkpoint,
            and the shape in the model.
        untied: The weights that the configuration ties and the checkpoint does not.
        apart: Pairs of tied weights of which one is outside of the root.
    """

    root: nn.Module
    checkpoint: Checkpoint
    lost: list[str]
    mismatched: list[tuple[str, Shape, Shape]]
    untied: list[str]
    apart: list[tuple[str, str]]

    def recounted(self) -> Fit:
        """Return the recipe with the parameter counts of the root, which has other parameters than the model had.

        The stores keep their part of the budget. The rest is what the root has beside generated weights.
        """
        plan = self.checkpoint.plan
        assert plan is not None
        trained = [tensor for name, tensor in self.root.named_parameters() if name not in self.checkpoint.frozen]
        dense = sum(parameter.numel() for parameter in trained)
        untouched = dense - sum(weight.numel for weight in plan.weights if weight.names)
        budget = plan.budget - plan.untouched + untouched
        plan = dataclasses.replace(plan, dense=dense, untouched=untouched, budget=budget)
        return dataclasses.replace(self, checkpoint=dataclasses.replace(self.checkpoint, plan=plan))


def fit_recipe(checkpoint: Checkpoint, model: Any, path: str, stored: Collection[str]) -> Fit:
    """Find the module of a model that has most weights of a recipe, and write the recipe in the names of that module.

    Args:
        checkpoint: The recipe, with a plan.
        model: A plain model of transformers.
        path: The dotted path of the module that was compressed in the checkpoint's model.
        stored: The names of the tensors in the checkpoint's files.
    """
    module = dict(model.named_modules()).get(path)
    base = f"{model.base_model_prefix}."

    def cut(name: str) -> str | None:
        return name.removeprefix(base) if name.startswith(base) else None

    # The module that was compressed; a base model that was saved alone; such a one under a head that is tied to it; the
    # base model of a model with a head.
    places: list[tuple[nn.Module, str, Callable[[str], str | None]]] = [
        (model if module is None else module, path if module is not None else "", lambda name: name),
        (model.base_model, "" if model.base_model is model else model.base_model_prefix, lambda name: name),
        (model, "", lambda name: base + name),
        (model, "", cut),
    ]
    fits = [_fit(checkpoint, model, root, where, rename, stored) for root, where, rename in places]
    if path:
        fits = [dataclasses.replace(fit, lost=[f"{path}.{name}" for name in fit.lost]) for fit in fits]
    return min(fits, key=lambda fit: len(fit.lost) + len(fit.apart))


def _fit(
    checkpoint: Checkpoint,
    model: Any,
    root: nn.Module,
    where: str,
    rename: Callable[[str], str | None],
    stored: Collection[str],
) -> Fit:
    assert checkpoint.plan is not None
    before = f"{where}." if where else ""
    parameters = dict(root.named_parameters(remove_duplicate=False))
    lost, mismatched = [], []
    places: dict[str, Weight] = {}
    names: dict[Weight, list[str]] = {}
    for weight in (weight for weight in checkpoint.plan.weights if weight.names):
        renamed = [found for found in map(rename, weight.names) if found in parameters]
        shape = tuple(parameters[renamed[0]].shape) if renamed else None
        if shape is None:
            lost.append(weight.name)
        elif shape != weight.shape:
            mismatched.append((before + renamed[0], weight.shape, shape))
        else:
            names[weight] = renamed
            places |= dict.fromkeys((before + name for name in renamed), weight)

    untied, apart = [], []
    for target, source in model.all_tied_weights_keys.items():
        of_target, of_source = places.get(target), places.get(source)
        owner = of_target or of_source
        other = source if of_source is None else target
        if owner is None or of_target is of_source:
            continue
        if (of_target and of_source) or other in stored:
            untied.append(target)
        elif other.startswith(before):
            names[owner].append(other.removeprefix(before))
            places[other] = owner
        else:
            apart.append((other, target if other == source else source))

    groups = [
        dataclasses.replace(
            group,
            weights=tuple(
                dataclasses.replace(weight, names=tuple(dict.fromkeys(names.get(weight, ()))))
                for weight in group.weights
            ),
        )
        for group in checkpoint.plan.groups
    ]
    left = tuple(group for group in groups if any(weight.names for weight in group.weights))
    plan = dataclasses.replace(checkpoint.plan, groups=left)
    frozen = frozenset(name for found in checkpoint.frozen if (name := rename(found)) is not None)
    errors = {
        names[weight][0]: checkpoint.fit_errors[weight.name] for weight in names if weight.name in checkpoint.fit_errors
    }
    fitted = dataclasses.replace(checkpoint, plan=plan, frozen=frozen, fit_errors=errors)
    return Fit(root, fitted, lost, mismatched, untied, apart)
