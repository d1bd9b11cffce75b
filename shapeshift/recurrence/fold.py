"""Folding: layers that came to be nearly equal become one, and the network that repeats them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from shapeshift.budget import count_parameters
from shapeshift.compression import materialize
from shapeshift.errors import ConfigError, ModelError
from shapeshift.generators.wavg import WeightedAverage
from shapeshift.plan import GroupPlan
from shapeshift.recurrence.graph import mermaid
from shapeshift.recurrence.repeat import with_loops
from shapeshift.recurrence.rows import find_rows
from shapeshift.recurrence.schedule import Schedule, find_schedule
from shapeshift.recurrence.similarity import coefficient_rows
from shapeshift.recurrence.ties import Ties, nearly_equal, tie
from shapeshift.running.modes import is_sharded
from shapeshift.surgery.install import install
from shapeshift.surgery.roots import require_root, require_shared


@dataclass(frozen=True)
class Folding:
    """The recurrent form of a model.

    Attributes:
        groups: which layers became one.
        schedules: which block runs when, for each stage with layers in these groups.
        before: the model's trainable parameters before it was folded.
        after: those of the folded model.
        module: a module that runs the schedules: where a block is run again it has a
            :class:`~shapeshift.recurrence.repeat.Repeat` of it. It uses the model's own parameters and buffers, and
            its outputs are the model's.
    """

    groups: tuple[Ties, ...]
    schedules: tuple[Schedule, ...]
    before: int
    after: int
    module: nn.Module = field(repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Return all but the module as a dict that JSON can hold."""
        groups = [{**vars(group), "layers": [list(names) for names in group.layers]} for group in self.groups]
        schedules = [schedule.as_dict() for schedule in self.schedules]
        return {"before": self.before, "after": self.after, "groups": groups, "schedules": schedules}

    def mermaid(self) -> str:
        """Return the graph of the recurrent network as `Mermaid <https://mermaid.js.org>`_ text.

        GitHub and many editors draw it from a fenced code block of the language ``mermaid``.

        Returns:
            A flowchart with a subgraph for each stage. A node is a block, and equal numbers in two nodes of a stage are
            weights that are equal up to a constant factor. An arrow leads to the block that runs next, and a dotted
            one back to a block that has run before.
        """
        return mermaid(self.schedules)

    def __str__(self) -> str:
        lines = [f"{self.before:,} parameters before folding, {self.after:,} after"]
        for group in self.groups:
            kept = "plain weights" if group.rolled_back else f"weights of {group.templates} templates"
            layers = sum(map(len, group.layers))
            lines.append(f"{group.group}: {layers} layers are {len(group.layers)} {kept}, {_moved(group)}")
            lines += [f"  {' = '.join(names)}" for names in group.layers if len(names) > 1]
        for schedule in self.schedules:
            lines.append(str(schedule))
        return "\n".join(lines)


def fold(model: nn.Module, threshold: float = 0.95) -> Folding:
    """Tie layers that came to be nearly equal, and return the recurrent form of the model.

    Savarese and Maire, ICLR 2019. In each group of layers that mix the same templates, those that are
    similar get the same coefficients, but for a constant factor of each layer, and keep them from then on, in training
    and in checkpoints. Where fewer distinct layers than templates remain, the group becomes plain weights, one for each
    of them. A block all of whose weights are those of an earlier one is that block, run again, with norms and biases
    of its own for each run.

    Args:
        model: a model after :func:`soft_share`, usually trained; it is changed in place. An optimizer has to be made
            anew afterwards, and wrappers such as DDP are put on afterwards. Convert its dtype before: the module that
            runs the schedule shares its buffers, which a conversion replaces.
        threshold: the least similarity, above 0 and up to 1, between layers that are tied.

    Returns:
        What became of it, with a module that runs it.

    Raises:
        ConfigError: if the threshold is out of range.
        ModelError: if the model is not compressed, has no group of layers that mix the same templates by coefficients
            of their own (``combine="wavg"``), is on the meta device or sharded, or holds coefficients that are not
            finite. It is unchanged after any error.
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold must be above 0 and at most 1, not {threshold!r}")
    root, shared = require_root(model), require_shared(model)
    with torch.no_grad():
        rows = coefficient_rows(root)
    foldable = {name: _check(name, shared[name], found) for name, found in rows.items()}
    with_loops(root, [])  # a model that cannot be copied fails here, before anything is changed

    before = count_parameters(root)
    ties: list[Ties] = []
    groups: dict[str, WeightedAverage] = {}
    for name, group in foldable.items():
        sets = nearly_equal(rows[name], threshold)
        tied, record = tie(name, group, rows[name], sets, shared.plan.config)
        ties.append(record)
        if tied is not group:
            groups[name] = tied
    if groups:
        # Plain for a moment: the layers are attached anew to what generates them now.
        materialize(root)
        for name, group in groups.items():
            shared[name] = group
        shared.plan = dataclasses.replace(
            shared.plan, groups=tuple(_planned(plan, groups) for plan in shared.plan.groups)
        )
        install(root, shared)

    generated = {name for group in shared.plan.groups for weight in group.weights for name in weight.names}
    schedules = tuple(
        find_schedule(root, f"stage{number}", stage)
        for number, stage in enumerate(find_rows(root), start=1)
        if any(name.startswith(f"{step}.") for step in stage.steps for name in generated)
    )
    module = with_loops(root, [(schedule.steps, schedule.blocks) for schedule in schedules])
    return Folding(tuple(ties), schedules, before, count_parameters(root), module)


def _planned(plan: GroupPlan, groups: dict[str, WeightedAverage]) -> GroupPlan:
    if plan.name not in groups:
        return plan
    return GroupPlan(plan.name, groups[plan.name].weights, groups[plan.name].layout)


def _check(name: str, group: nn.Module, rows: torch.Tensor) -> WeightedAverage:
    """Return a group that can be folded."""
    if not isinstance(group, WeightedAverage):
        raise ModelError(
            f'the layers of {name} have no coefficients of their own to tie; fold is for combine="wavg", '
            "which shapeshift.recurrence.soft_share chooses"
        )
    if rows.is_meta or is_sharded(rows):
        where = "is on the meta device" if rows.is_meta else "is sharded over processes"
        raise ModelError(f"{name} {where} and cannot be folded; fold a model that is whole, in one process")
    if not torch.isfinite(rows).all():
        raise ModelError(f"the coefficients of {name} are not finite; repair or retrain the model before folding it")
    return group


def _moved(group: Ties) -> str:
    return f"which moved by {group.change:.1%} at most" if group.change else "unchanged"
