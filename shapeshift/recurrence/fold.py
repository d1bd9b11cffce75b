"""Folding: tying layers that have become nearly equal, and repeating the blocks that have become equal."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from shapeshift.budget import count_parameters
from shapeshift.errors import ConfigError, ModelError
from shapeshift.generators.wavg import WeightedAverage
from shapeshift.plan import GroupPlan
from shapeshift.recurrence.graph import mermaid
from shapeshift.recurrence.loop import with_scans
from shapeshift.recurrence.repeat import with_loops
from shapeshift.recurrence.rows import find_rows
from shapeshift.recurrence.schedule import Schedule, find_schedule
from shapeshift.recurrence.similarity import coefficient_rows
from shapeshift.recurrence.ties import Ties, nearly_equal, tie
from shapeshift.running.modes import is_sharded
from shapeshift.surgery.install import replace
from shapeshift.surgery.roots import require_root, require_shared
from shapeshift.surgery.shared_parameters import SharedParameters


@dataclass(frozen=True)
class Folding:
    """The recurrent form of a model, which :func:`fold` returns. Printing it lists the tied layers and the loops.

    Attributes:
        groups: The ties of each group of layers.
        schedules: The order in which blocks run, for each stage with layers in these groups.
        before: The number of trainable parameters of the model before it was folded.
        after: The number of trainable parameters of the folded model.
        module: A module that runs the schedules, with a :class:`~shapeshift.recurrence.repeat.Repeat` in place of each
            block that runs again. It uses the model's own parameters and buffers, and its outputs are the model's.
        model: The model itself.

    Example:
        >>> from shapeshift.networks.wide_resnet import WideResNet
        >>> from shapeshift.recurrence import fold, soft_share
        >>> folding = fold(soft_share(WideResNet(22, 0.5), templates=1))  # with one template all layers are similar
        >>> folding.schedules[0].steps, folding.schedules[0].blocks
        (('blocks.1', 'blocks.2'), (0, 0))
        >>> print(folding.mermaid().splitlines()[1])
          subgraph s0["stage1: 2 steps, 1 block"]
    """

    groups: tuple[Ties, ...]
    schedules: tuple[Schedule, ...]
    before: int
    after: int
    module: nn.Module = field(repr=False, compare=False)
    model: nn.Module = field(repr=False, compare=False)

    def for_export(self) -> nn.Module:
        """Return a module for exporters, whose graph holds the runs of a block that follow each other as one loop.

        The loop is a scan: an ONNX file has the operators of a block once, in a node ``Scan``. The module runs as
        ``module`` does, in eval mode. It has the model's weights of this moment, and it is not to be trained.

        Returns:
            The module. A block whose runs have settings of their own, or are not next to each other, stays as it is.

        Raises:
            ModelError: On export, if a block in a loop returns something else than one tensor like its input.

        Example:
            >>> import torch
            >>> from shapeshift.networks.wide_resnet import WideResNet
            >>> from shapeshift.recurrence import fold, soft_share
            >>> folding = fold(soft_share(WideResNet(22, 0.5), templates=1).eval())
            >>> images = torch.randn(2, 3, 8, 8)
            >>> torch.equal(folding.for_export()(images), folding.module(images))
            True
        """
        return with_scans(self.model, self.schedules)

    def as_dict(self) -> dict[str, Any]:
        """Return all fields except the module as a dict that JSON can hold."""
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
    """Tie layers that have become nearly equal, and return the recurrent form of the model (Savarese and Maire 2019).

    In each group of layers that mix the same templates, similar layers get the same coefficients, up to a constant
    factor for each layer. They keep them in training and in checkpoints. If fewer distinct layers than templates
    remain, the group keeps one plain weight for each distinct layer and drops the templates. A block with the same
    weights as an earlier block becomes a repetition of that block, with norms and biases of its own for each run.

    Args:
        model: A model after :func:`soft_share`, usually trained. It is changed in place. Create the optimizer and
            wrappers such as DDP afterwards. Convert the dtype before: the recurrent module shares the model's buffers,
            and a conversion replaces them.
        threshold: The smallest similarity of layers that are tied, above 0 and at most 1.

    Returns:
        The ties and schedules, with a module that runs them.

    Raises:
        ConfigError: If the threshold is out of range.
        ModelError: If the model is not compressed, has no group of layers that mix the same templates by coefficients
            of their own (``combine="wavg"``), is on the meta device or sharded, or holds coefficients that are not
            finite. The model is unchanged after any error.

    Example:
        >>> import shapeshift, torch
        >>> from shapeshift.networks.wide_resnet import WideResNet
        >>> from shapeshift.recurrence import fold, soft_share
        >>> model = soft_share(WideResNet(16, 0.5), templates=2).eval()
        >>> folding = fold(model, threshold=0.95)
        >>> folding.after == shapeshift.count_parameters(model) <= folding.before
        True
        >>> images = torch.randn(2, 3, 8, 8)
        >>> torch.equal(folding.module(images), model(images))
        True
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold must be above 0 and at most 1, not {threshold!r}")
    root, shared = require_root(model), require_shared(model)
    with torch.no_grad():
        rows = coefficient_rows(root)
    foldable = {name: _check(name, shared[name], found) for name, found in rows.items()}
    with_loops(root, [])  # a model that cannot be copied fails here, before any change

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
        plan = dataclasses.replace(shared.plan, groups=tuple(_planned(plan, groups) for plan in shared.plan.groups))
        generators, errors = {**dict(zip(shared, shared.generators(), strict=True)), **groups}, shared.fit_errors
        shared = replace(root, lambda _: SharedParameters(plan, generators, errors))

    generated = {name for weight in shared.plan.weights for name in weight.names}
    schedules = tuple(
        find_schedule(root, f"stage{number}", stage)
        for number, stage in enumerate(find_rows(root), start=1)
        if any(name.startswith(f"{step}.") for step in stage.steps for name in generated)
    )
    module = with_loops(root, [(schedule.steps, schedule.blocks) for schedule in schedules])
    return Folding(tuple(ties), schedules, before, count_parameters(root), module, root)


def _planned(plan: GroupPlan, groups: dict[str, WeightedAverage]) -> GroupPlan:
    if plan.name not in groups:
        return plan
    return GroupPlan(plan.name, groups[plan.name].weights, groups[plan.name].layout)


def _check(name: str, group: nn.Module, rows: torch.Tensor) -> WeightedAverage:
    """Return the group if it can be folded; raise an error otherwise."""
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
