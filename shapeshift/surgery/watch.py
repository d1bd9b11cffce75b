"""Warnings where a model's shared parameters are not trained as the parameters beside its weights are."""

from __future__ import annotations

import functools
import gc
import warnings
import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer

from shapeshift.errors import ShapeshiftWarning
from shapeshift.generators.recomputed import version_of
from shapeshift.running.modes import is_sharded
from shapeshift.surgery.attached import is_attached, weight_sources
from shapeshift.surgery.forward_pass import WeightSource
from shapeshift.surgery.parts import describe_sharing, how_to_separate, serves_others


class _Neighbours(NamedTuple):
    """The plain parameters beside a generated weight.

    Attributes:
        weight: The index of the weight in its source.
        path: The dotted path of the module that has them: the weight's layer, or else a module around it.
        is_own: Whether that is the weight's layer.
        parameters: References to those that were trainable when the model was compressed.
    """

    weight: int
    path: str
    is_own: bool
    parameters: tuple[weakref.ref[nn.Parameter], ...]

    def alive(self) -> list[nn.Parameter]:
        """Return the parameters that the model still has."""
        return [found for reference in self.parameters if (found := reference()) is not None]


class Watch:
    """Compares shared parameters with the plain ones beside their weights, and warns once about each difference.

    A part of a model is often frozen, or given to an optimizer, by its list of parameters, which lacks the shared ones
    where they serve other parts too. The plain parameters of the part show it: they are frozen and the shared ones are
    not, or a step has changed them and left the shared ones as they were. The watch looks until every group has had
    its first step, and again after each time that the model returns to training. A copy starts afresh.
    """

    def __init__(self) -> None:
        #: Whether the next training pass has something to look at.
        self.is_due = True
        self._neighbours: dict[WeightSource, list[_Neighbours]] | None = None
        self._versions: dict[WeightSource, dict[int, int]] | None = None
        self._told: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return Watch, ()

    def restart(self) -> None:
        """Look again, as the model returns to training."""
        self.is_due = True
        self._versions = None

    def start(self, root: nn.Module) -> None:
        """Note the trainable parameters beside each weight of a compressed model."""
        modules = dict(root.named_modules())
        trainable = functools.cache(lambda path: tuple(map(weakref.ref, _trainable(modules[path]))))
        self._neighbours = {}
        for path, module in modules.items():
            for source, index in weight_sources(module).values() if is_attached(module) else ():
                around = path
                while not trainable(around) and "." in around:
                    around = around.rpartition(".")[0]
                references = trainable(around)
                self._neighbours.setdefault(source, []).append(_Neighbours(index, around, around == path, references))

    def look(self, root: nn.Module) -> None:
        """Compare the present state with that of the last training pass, as the next one begins."""
        if self._neighbours is None:
            self.start(root)
        assert self._neighbours is not None
        if self._versions is None:
            # Sharded parameters are other tensors in a pass than those that the optimizer has.
            sources = () if any(map(is_sharded, root.parameters())) else self._neighbours
            modules = dict(root.named_modules())
            for source in sources:
                self._check_frozen(source, modules)
            self._versions = {source: self._count(source) for source in sources}
        for source, before in list(self._versions.items()):
            now = self._count(source)
            shared = [found for found in source.generator.parameters() if found.requires_grad]
            behind = [found for found in shared if before.get(id(found)) == now[id(found)]]
            moved = {key for key, version in now.items() if before.get(key, version) != version}
            if moved or not behind:
                del self._versions[source]
            if moved and behind:
                self._check_optimizers(source, moved, behind)
        self.is_due = bool(self._versions)

    def _count(self, source: WeightSource) -> dict[int, int]:
        """Return how often the parameters of a group, and those beside its weights, have been written to."""
        assert self._neighbours is not None
        beside = (found for neighbours in self._neighbours[source] for found in neighbours.alive())
        return {id(found): version_of(found) for found in (*source.generator.parameters(), *beside)}

    def _check_optimizers(self, source: WeightSource, moved: set[int], behind: list[nn.Parameter]) -> None:
        """Warn if an optimizer has the parameters that have moved, and none has those that have stayed behind."""
        assert self._neighbours is not None
        held = _held_by_optimizers()
        if not moved & held or all(id(found) in held for found in behind):
            return
        indices = {
            neighbours.weight
            for neighbours in self._neighbours[source]
            if any(id(found) in moved for found in neighbours.alive())
        }
        first = source.weights[min(indices)]
        message = (
            f"an optimizer has updated the parameters beside {first.name} {first.shape}, and no optimizer has the "
            f"parameters of {source.path} that it is generated from, so it is not trained. Give the optimizer "
            "model.parameters() or shapeshift.parameter_groups(model, weight_decay)"
        )
        if serves_others(source, indices):
            message += (
                ". To train a part of the model alone, or at a rate of its own: "
                f"{describe_sharing(source, indices)}. {how_to_separate(source, indices)}"
            )
        self._warn("optimizer", f"{message}. To keep it as it is, freeze model.{source.path}")

    def _check_frozen(self, source: WeightSource, modules: Mapping[str, nn.Module]) -> None:
        """Warn if the parameters beside some weights of a group are frozen and the group is not, or for others too."""
        assert self._neighbours is not None
        frozen, trained = set(), set()
        for found in self._neighbours[source]:
            parameters = found.alive()
            # A norm whose parameters became buffers is frozen. One that was replaced has others.
            gone = found.parameters and not parameters and found.path in modules
            if any(parameter.requires_grad for parameter in parameters):
                if found.is_own:
                    trained.add(found.weight)
            elif parameters or (gone and not _trainable(modules[found.path])):
                frozen.add(found.weight)
        if not frozen:
            return
        if any(parameter.requires_grad for parameter in source.generator.parameters()):
            first = source.weights[min(frozen)]
            message = f"the parameters beside {first.name} {first.shape} were frozen, and it is trained all the same: "
            if serves_others(source, frozen):
                message += f"{describe_sharing(source, frozen)}. {how_to_separate(source, frozen)}"
            else:
                message += f"freeze model.{source.path} too, or call requires_grad_(False) on the part that it serves"
            self._warn("frozen", message)
        elif trained:
            first = source.weights[min(trained)]
            self._warn(
                "frozen",
                f"the parameters beside {first.name} {first.shape} are trained, and it is not, since "
                f"model.{source.path} is frozen: {describe_sharing(source, trained)}. "
                f"{how_to_separate(source, trained)}",
            )

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            warnings.warn(message, ShapeshiftWarning, stacklevel=8)  # the line that calls the model


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    """Return the trainable parameters that a module and those below have registered, and so no shared ones."""
    found = (parameter for part in module.modules() for parameter in part.parameters(recurse=False))
    return [parameter for parameter in found if parameter.requires_grad]


def _held_by_optimizers() -> set[int]:
    """Return the identities of the parameters of all optimizers in the process. This takes a while."""
    gc.collect()  # an optimizer and its schedule refer to each other
    optimizers = [found for found in gc.get_objects() if issubclass(type(found), Optimizer)]
    groups = [group for optimizer in optimizers for group in getattr(optimizer, "param_groups", ())]
    return {id(parameter) for group in groups for parameter in group["params"]}
