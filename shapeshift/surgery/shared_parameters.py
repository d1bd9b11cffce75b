"""The module at a compressed model's root that owns every shared parameter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from shapeshift.generators import WeightGenerator
from shapeshift.plan import Plan

ATTRIBUTE = "shapeshift"


class SharedParameters(nn.ModuleDict):
    """The parameter groups of a compressed model, by name, and the plan that they were made from.

    The root of a compressed model has it as its submodule ``shapeshift``; layers refer to their group without owning
    it, so that a state dict, an optimizer and FSDP see every shared parameter once.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        for group in plan.groups:
            self[group.name] = plan.generator.build(group.weights, group.layout, plan.config)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return what comes in: ``nn.Sequential(*model.children())`` has this module among the others."""
        return inputs

    def groups(self) -> list[WeightGenerator[Any]]:
        """Return the parameter groups in the plan's order."""
        return list(self._modules.values())  # type: ignore[arg-type]

    def reset_parameters(self) -> None:
        """Draw new starting values; needed after ``to_empty()`` on a model that was compressed on the meta device."""
        seed = self.plan.config.seed
        if seed is None:
            seed = int(torch.randint(2**62, (), device="cpu").item())
        generator = torch.Generator().manual_seed(seed)
        for group in self.groups():
            group.reset_parameters(generator)

    def begin(self) -> None:
        """Generate all weights for the forward pass that starts now."""
        for group in self.groups():
            group.begin()

    def check_unwritten(self) -> None:
        """Raise if the forward pass wrote to a generated weight.

        Raises:
            GeneratedWeightError: if so.
        """
        for group in self.groups():
            group.check_unwritten()

    def end(self) -> None:
        """Forget the weights of the forward pass that ends now."""
        for group in self.groups():
            group.end()


def put_first(root: nn.Module, shared: nn.Module) -> None:
    """Make the shared parameters the first child of a root: who leaves out the last children means the model's own."""
    others = dict(root._modules)
    root._modules.clear()
    root.add_module(ATTRIBUTE, shared)
    root._modules.update(others)
