"""The module at a compressed model's root that owns every shared parameter."""

from __future__ import annotations

import functools
import json
import weakref
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from shapeshift.generators import WeightGenerator
from shapeshift.plan import Plan
from shapeshift.surgery.forward_pass import WeightSource
from shapeshift.surgery.watch import Watch

ATTRIBUTE = "shapeshift"


class SharedParameters(nn.ModuleDict):
    """The generators of a compressed model by the names of their groups, and the plan that they follow.

    The root of a compressed model has it as its submodule ``shapeshift``. Layers refer to a source of weights without
    owning the generator behind it, so that a state dict, an optimizer and FSDP see every shared parameter once.

    Args:
        plan: The plan.
        generators: The generators of the groups by name; those of all other groups are built, uninitialised.
        fit_errors: The relative error of each weight after a fit, by name.
    """

    #: The relative error of each weight after a fit, by name; empty without a fit.
    fit_errors: dict[str, float]

    #: Whether the name of the architecture stands for the compressed model, as timm's `shapeshift_` names do: then the
    #: model is built compressed again, and a state dict by the names of its parameters is whole.
    is_built_in = False

    def __init__(
        self,
        plan: Plan,
        generators: Mapping[str, WeightGenerator[Any]] | None = None,
        fit_errors: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.fit_errors = dict(fit_errors or {})
        given = generators or {}
        for group in plan.groups:
            self[group.name] = given.get(group.name) or plan.generator.build(group.weights, group.layout, plan.config)
        #: Where the layers of each group read their weights.
        self.sources = [WeightSource(generator, f"{ATTRIBUTE}.{name}") for name, generator in self.items()]  # type: ignore[arg-type]
        #: Warns where they are not trained as the rest of the model is.
        self._watch = Watch()
        #: Whether weights live only while their layers run, and are generated again in the backward pass.
        self.recompute = plan.config.recompute
        self._own_sources()

    def _own_sources(self) -> None:
        for source in self.sources:
            source.owner = weakref.ref(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._own_sources()

    @classmethod
    def reserved_names(cls) -> set[str]:
        """Return the names that no group can have: those of attributes, to which other libraries add some."""
        return {*dir(cls), *dir(nn.ModuleDict()), "fit_errors", "plan", "recompute", "sources", "_watch"}

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the inputs: ``nn.Sequential(*model.children())`` has this module among the others."""
        return inputs

    def train(self, mode: bool = True) -> Self:
        """Set the mode, as every module of a model does, and watch again after a return to training."""
        if mode and not self.training:
            self._watch.restart()
        return super().train(mode)

    def start_watching(self, root: nn.Module) -> None:
        """Note what is trainable in the model of this root, which was compressed just now."""
        self._watch.start(root)

    def watch(self, root: nn.Module) -> None:
        """Warn, in a training pass, if the model of this root does not train its shared parameters as the rest."""
        if self._watch.is_due:
            self._watch.look(root)

    def generators(self) -> list[WeightGenerator[Any]]:
        """Return the generators in the plan's order."""
        return list(self._modules.values())  # type: ignore[arg-type]

    def reset_parameters(self) -> None:
        """Draw new starting values; needed after ``to_empty()`` on a model that was compressed on the meta device."""
        seed = self.plan.config.seed
        if seed is None:
            seed = int(torch.randint(2**62, (), device="cpu").item())
        rng = torch.Generator().manual_seed(seed)
        for generator in self.generators():
            generator.reset_parameters(rng)

    @functools.cached_property
    def plan_text(self) -> str:
        """The plan as JSON, which every state dict carries."""
        return json.dumps(self.plan.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the plan and the errors of the fit as a dict that JSON can hold."""
        return {**self.plan.to_dict(), "errors": dict(self.fit_errors)}


def put_first(root: nn.Module, shared: nn.Module) -> None:
    """Register the shared parameters as the first child of a root.

    Code that drops the last children (``children()[:-1]``) then still drops the model's own.
    """
    others = dict(root._modules)
    root._modules.clear()
    root.add_module(ATTRIBUTE, shared)
    root._modules.update(others)
