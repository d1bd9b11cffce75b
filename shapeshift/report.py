"""Reports: a model's parameters before and after compression, and which weights share them."""

from __future__ import annotations

import dataclasses
import io
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from shapeshift import html_report
from shapeshift.budget import count_parameters
from shapeshift.checkpoint import files
from shapeshift.checkpoint.snapshot import Snapshot
from shapeshift.generators.description import WeightDescription
from shapeshift.plan import GroupPlan, Plan
from shapeshift.surgery.roots import require_root, require_shared
from shapeshift.text_table import text_table

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class WeightReport:
    """One generated weight.

    Attributes:
        name: its dotted path.
        shape: its shape.
        source: the parts of stores that it comes from.
        error: the distance of a fit from the model's own weight, relative to that weight's norm; after a calibration,
            measured in the outputs of its layer. None without a fit. Training that follows does not change it.

    Example:
        >>> import torch, shapeshift
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
        >>> found = shapeshift.report(shapeshift.plan_compression(model, "25%"))
        >>> found.groups[0].weights[0].name, found.groups[0].weights[0].source.sampling
        ('0.weight', 'up')
    """

    name: str
    shape: tuple[int, ...]
    source: WeightDescription
    error: float | None = None

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a dict that JSON can hold."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "sampling": self.source.sampling,
            "templates": [list(window) for window in self.source.templates],
            "error": self.error,
        }


@dataclass(frozen=True)
class GroupReport:
    """One parameter group.

    Attributes:
        name: its name.
        stores: the number of parameters in each store, by name.
        coefficients: the number of trainable parameters beside the stores.
        weights: the weights that it generates.

    Example:
        >>> import torch, shapeshift
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
        >>> found = shapeshift.report(shapeshift.plan_compression(model, "25%"))
        >>> found.groups[0].dense, found.groups[0].parameters
        (8192, 1952)
    """

    name: str
    stores: dict[str, int]
    coefficients: int
    weights: tuple[WeightReport, ...]

    @property
    def dense(self) -> int:
        """The number of parameters that the weights had as plain ones."""
        return sum(weight.numel for weight in self.weights)

    @property
    def parameters(self) -> int:
        """The number of trainable parameters of the group."""
        return sum(self.stores.values()) + self.coefficients

    @property
    def templates(self) -> tuple[int, int]:
        """The fewest and the most templates that a weight combines."""
        counts = [len(weight.source.templates) for weight in self.weights]
        return min(counts), max(counts)

    @property
    def sampling(self) -> dict[str, int]:
        """How many weights combine several templates ("down"), are stretched ("up"), or neither ("none")."""
        return dict(Counter(weight.source.sampling for weight in self.weights))

    def as_dict(self) -> dict[str, Any]:
        """Return the fields and the properties as a dict that JSON can hold."""
        return {
            "name": self.name,
            "dense": self.dense,
            "parameters": self.parameters,
            "stores": self.stores,
            "coefficients": self.coefficients,
            "templates": list(self.templates),
            "sampling": self.sampling,
            "weights": [weight.as_dict() for weight in self.weights],
        }


@dataclass(frozen=True)
class Report:
    """A compressed model, or a plan for one, in numbers.

    Printing it, with rich or without, gives a table. A notebook shows it as HTML, with the mapping drawn.

    Attributes:
        groups: the parameter groups.
        dense: the model's own number of trainable parameters.
        untouched: the number of these that are not generated.
        parameters: the number of trainable parameters after compression.
        budget: the number that was allowed.
        checkpoint_bytes: the size of all files that :func:`shapeshift.save` writes.
        budget_bytes: the number of bytes that was allowed; None if the budget counts parameters.

    Example:
        >>> import torch, shapeshift
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
        >>> found = shapeshift.report(shapeshift.plan_compression(model, "25%"))
        >>> found.parameters, found.as_dict()["budget_used"]
        (2080, 1.0)
    """

    groups: tuple[GroupReport, ...]
    dense: int
    untouched: int
    parameters: int
    budget: int
    checkpoint_bytes: int
    budget_bytes: int | None = None

    @property
    def budget_used(self) -> float:
        """The share of the budget that is used, in bytes if the budget is in bytes, else in parameters."""
        if self.budget_bytes is not None:
            return self.checkpoint_bytes / self.budget_bytes
        return self.parameters / self.budget

    def as_dict(self) -> dict[str, Any]:
        """Return the whole report as a dict that JSON can hold."""
        totals = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        groups = [{**group.as_dict(), "budget_share": group.parameters / self.budget} for group in self.groups]
        return {**totals, "budget_used": self.budget_used, "groups": groups}

    def summary(self) -> str:
        """Return the totals in two lines, and the errors of a fit in another."""
        budget = f"{self.budget:,}" if self.budget_bytes is None else f"{self.budget_bytes:,} bytes"
        totals = (
            f"{self.dense:,} parameters before, {self.parameters:,} after ({self.parameters / self.dense:.1%}), "
            f"{self.budget_used:.2%} of the budget of {budget}\n"
            f"{self.untouched:,} are not generated; a checkpoint takes {_in_bytes(self.checkpoint_bytes)}"
        )
        errors = {
            weight.name: weight.error for group in self.groups for weight in group.weights if weight.error is not None
        }
        if not errors:
            return totals
        worst, middle = max(errors, key=errors.__getitem__), statistics.median(errors.values())
        return (
            f"{totals}\nfitted with a relative error of {middle:.1%} (median), at most {errors[worst]:.1%} in {worst}"
        )

    def to_html(self, title: str = "Parameter groups") -> str:
        """Return the report as a page of HTML, which loads nothing and runs no script.

        Args:
            title: The title of the page.
        """
        return html_report.page(self, title)

    def _repr_html_(self) -> str:
        return html_report.fragment(self)

    def __rich__(self) -> Table:
        from rich.table import Table

        table = Table(title="Parameter groups", caption=self.summary(), caption_justify="left", title_justify="left")
        for header in _HEADERS:
            table.add_column(header, justify="left" if header in _LEFT else "right")
        for row in self._rows():
            table.add_row(*row)
        return table

    def __str__(self) -> str:
        try:
            from rich.console import Console
        except ImportError:
            return self._plain()
        text = io.StringIO()
        Console(file=text, width=120).print(self)
        return text.getvalue().rstrip()

    def _plain(self) -> str:
        return f"{text_table(_HEADERS, self._rows())}\n{self.summary()}"

    def _rows(self) -> list[Sequence[str]]:
        return [
            (
                group.name,
                str(len(group.weights)),
                f"{group.dense:,}",
                f"{group.parameters:,}",
                f"{group.parameters / self.budget:.1%}",
                " + ".join(f"{size:,}" for size in group.stores.values()),
                "-".join(str(count) for count in dict.fromkeys(group.templates)),
                ", ".join(f"{count} {_SAMPLING[kind]}" for kind, count in sorted(group.sampling.items())),
            )
            for group in self.groups
        ]


_HEADERS = ("group", "layers", "before", "after", "of budget", "store", "templates", "sampling")
_LEFT = ("group", "sampling")
_SAMPLING = {"down": "down", "up": "up", "down+up": "down and up", "none": "neither"}


def report(model: nn.Module | Plan) -> Report:
    """Report on a compressed model, or on a plan for one.

    Args:
        model: A compressed model, a wrapper around one (DDP, say), or a plan of
            :func:`shapeshift.plan_compression`.

    Returns:
        The report. Printing it gives a table, ``as_dict()`` a dict.

    Raises:
        ModelError: if the model is not compressed.

    Example:
        >>> import torch, shapeshift
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
        >>> found = shapeshift.report(shapeshift.compress(model, "25%"))
        >>> found.dense, found.parameters, found.groups[0].templates
        (8320, 2080, (1, 1))
    """
    if isinstance(model, Plan):
        return _report(model, {}, model.total, model.checkpoint_bytes)
    root = require_root(model)
    snapshot = Snapshot.of(root)
    size = files.size(snapshot.description, snapshot.tensors, snapshot.formats)
    shared = require_shared(model)
    return _report(shared.plan, shared.fit_errors, count_parameters(root), size)


def _report(plan: Plan, fit_errors: Mapping[str, float], parameters: int, checkpoint_bytes: int) -> Report:
    groups = tuple(_group_report(group, fit_errors) for group in plan.groups)
    return Report(groups, plan.dense, plan.untouched, parameters, plan.budget, checkpoint_bytes, plan.budget_bytes)


def _group_report(group: GroupPlan, fit_errors: Mapping[str, float]) -> GroupReport:
    described = group.layout.describe(group.weights)
    weights = tuple(
        WeightReport(weight.name, weight.shape, source, fit_errors.get(weight.name))
        for weight, source in zip(group.weights, described.weights, strict=True)
    )
    return GroupReport(group.name, described.stores, described.coefficients, weights)


def _in_bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
