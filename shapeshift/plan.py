"""The plan of a compressed model: which weights share which parameters, decided before anything is changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from shapeshift.allocation import allocate
from shapeshift.budget import Budget, count_parameters, parse_budget
from shapeshift.config import Config
from shapeshift.errors import BudgetError, ConfigError
from shapeshift.generators import GENERATORS, WeightGenerator
from shapeshift.generators.base import Layout, Planner
from shapeshift.generators.mixing.layout import TemplatePlanner
from shapeshift.mappings import Assignment, assign
from shapeshift.weights import Weight, find_weights


@dataclass(frozen=True)
class GroupPlan:
    """The plan of one parameter group.

    Attributes:
        name: the mapping's label, as the name of a module.
        weights: the weights that the group generates.
        layout: how the shared parameters are laid out; its type is the generator's own.
    """

    name: str
    weights: tuple[Weight, ...]
    layout: Layout

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict that JSON can hold."""
        weights = [weight.to_dict() for weight in self.weights]
        return {"name": self.name, "weights": weights, "layout": self.layout.to_dict()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], layout_type: type[Layout]) -> GroupPlan:
        """Rebuild a group from :meth:`to_dict`.

        Raises:
            KeyError, TypeError, ValueError: if the fields do not describe a group.
        """
        weights = tuple(Weight.from_dict(weight) for weight in fields["weights"])
        if not any(weight.names for weight in weights):
            raise ValueError("a group without weights, or without one that has a name")
        return cls(fields["name"], weights, layout_type.from_dict(fields["layout"], weights))


def with_weights(group: GroupPlan, **fields: Any) -> GroupPlan:
    """Return a group's plan with some fields of all its weights set anew."""
    return dataclasses.replace(group, weights=tuple(dataclasses.replace(weight, **fields) for weight in group.weights))


@dataclass(frozen=True)
class Plan:
    """The plan that :func:`shapeshift.compress` follows.

    Attributes:
        config: the config.
        groups: the parameter groups.
        dense: the model's own number of trainable parameters.
        untouched: the number of these that are not generated.
        budget: the number of parameters that was allowed; with a budget in bytes, the number that these came to.
        budget_bytes: the number of bytes that was allowed; None if the budget counts parameters.
        checkpoint_bytes: the size of the checkpoint that :func:`shapeshift.save` will write, where
            :func:`shapeshift.plan_compression` made the plan; 0 elsewhere.
    """

    config: Config
    groups: tuple[GroupPlan, ...]
    dense: int
    untouched: int
    budget: int
    budget_bytes: int | None = None
    checkpoint_bytes: int = dataclasses.field(default=0, compare=False)

    @property
    def generator(self) -> type[WeightGenerator[Any]]:
        """The class that generates the weights of each group."""
        return GENERATORS[self.config.combine]

    @property
    def weights(self) -> list[Weight]:
        """The weights of all groups."""
        return [weight for group in self.groups for weight in group.weights]

    @property
    def total(self) -> int:
        """The number of trainable parameters of the compressed model."""
        return self.untouched + sum(group.layout.num_parameters for group in self.groups)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as a dict that JSON can hold, without devices."""
        fields = {
            "config": self.config.to_dict(),
            "groups": [group.to_dict() for group in self.groups],
            "dense": self.dense,
            "untouched": self.untouched,
            "budget": self.budget,
        }
        return fields if self.budget_bytes is None else {**fields, "budget_bytes": self.budget_bytes}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Plan:
        """Rebuild a plan from :meth:`to_dict`, its weights on the CPU.

        Raises:
            ConfigError: if the config names something that this version does not know.
            KeyError, TypeError, ValueError: if the dict does not come from :meth:`to_dict`.
        """
        config = Config.from_dict(fields["config"])
        layout_type = GENERATORS[config.combine].layout_type
        groups = tuple(GroupPlan.from_dict(group, layout_type) for group in fields["groups"])
        in_bytes = int(fields["budget_bytes"]) if "budget_bytes" in fields else None
        plan = cls(config, groups, int(fields["dense"]), int(fields["untouched"]), int(fields["budget"]), in_bytes)
        names = [name for weight in plan.weights for name in weight.names]
        if len(set(names)) < len(names) or len({group.name for group in groups}) < len(groups):
            raise ValueError("two groups, or two weights, of one name")
        return plan


def make_plan(
    model: nn.Module,
    budget: Budget | None,
    config: Config,
    reserved: Collection[str] = (),
    store_sizes: Mapping[str, int] | None = None,
) -> Plan:
    """Decide which weights of a model share which parameters.

    Args:
        model: The model; it is not changed.
        budget: The most trainable parameters, as :func:`shapeshift.budget.parse_budget` reads it. None allows what
            ``store_sizes`` add up to.
        config: The config.
        reserved: Names that no group can have.
        store_sizes: The number of entries of the store of each group, by the mapping's labels, in place of a share of
            the budget. The generator has to be one that combines templates.

    Raises:
        BudgetError: if the budget cannot be read, or lies outside of what the config allows; it names the bound.
        ModelError, ConfigError: as :func:`shapeshift.weights.find_weights`.
    """
    draft = Draft.of(model, config, reserved)
    if store_sizes is None:
        assert budget is not None
        return draft.plan(parse_budget(budget, draft.dense))
    layouts = [
        planner.layout_of(store_sizes[name])
        for name, planner in draft.planners.items()
        if isinstance(planner, TemplatePlanner)
    ]
    return draft.laid_out(layouts, draft.untouched + sum(layout.num_parameters for layout in layouts))


def budget_range(model: nn.Module, config: Config) -> tuple[int, int]:
    """Return the least and the most trainable parameters that a config allows for a model.

    Raises:
        ModelError, ConfigError: as :func:`make_plan`.
    """
    draft = Draft.of(model, config)
    return draft.least, draft.most


@dataclass(frozen=True)
class Draft:
    """A plan without a budget: the planners of the groups, and the model's parameters."""

    config: Config
    planners: dict[str, Planner[Any]]
    dense: int
    untouched: int

    @classmethod
    def of(cls, model: nn.Module, config: Config, reserved: Collection[str] = ()) -> Draft:
        weights = find_weights(model, config.include, config.exclude)
        dense = count_parameters(model)
        untouched = dense - sum(weight.numel for weight in weights)
        labels = assign(config.mapping, weights, config)
        if not isinstance(config.mapping, str):  # the plan keeps a mapping that JSON can hold
            spelled = Assignment({weight.name: label for weight, label in zip(weights, labels, strict=True)})
            config = dataclasses.replace(config, mapping=spelled)
        generator = GENERATORS[config.combine]
        planners = {
            name: generator.planner(group, config) for name, group in group_weights(weights, labels, reserved).items()
        }
        return cls(config, planners, dense, untouched)

    @property
    def least(self) -> int:
        return self.untouched + sum(planner.least for planner in self.planners.values())

    @property
    def most(self) -> int:
        return self.untouched + sum(planner.most for planner in self.planners.values())

    def plan(self, allowed: int) -> Plan:
        """Return the plan of a number of parameters.

        Raises:
            BudgetError: if it cannot be met.
        """
        self.check(allowed)
        return self.laid_out(allocate(list(self.planners.values()), allowed - self.untouched), allowed)

    def laid_out(self, layouts: Sequence[Layout], allowed: int) -> Plan:
        """Return the plan of layouts, one for each group, for a number of parameters that was allowed."""
        groups = tuple(
            GroupPlan(name, planner.weights, layout)
            for (name, planner), layout in zip(self.planners.items(), layouts, strict=True)
        )
        return Plan(self.config, groups, self.dense, self.untouched, allowed)

    def check(self, allowed: int) -> None:
        """Raise if a budget cannot be met.

        Raises:
            BudgetError: if so.
        """
        for bound, side in ((self.least, "least"), (self.most, "most")):
            if allowed < bound if side == "least" else allowed > bound:
                raise BudgetError(
                    f"a budget of {allowed:,} parameters cannot be met: the {side} for this model and config is "
                    f"{bound:,} ({self.untouched:,} that are not generated, and {bound - self.untouched:,} in "
                    f"{len(self.planners)} stores; the model itself has {self.dense:,}). "
                    "Choose a budget on the other side of that bound, or change "
                    + ("include, exclude or mapping" if side == "least" else "max_templates")
                )


def group_weights(
    weights: Sequence[Weight], labels: Sequence[str], reserved: Collection[str] = ()
) -> dict[str, list[Weight]]:
    """Sort weights into groups of one label, one dtype and one device, by a name that a module can have.

    Raises:
        ConfigError: if two labels would make the same name.
    """
    mixed = len({(weight.dtype, weight.device) for weight in weights}) > 1
    groups: dict[str, list[Weight]] = {}
    names: dict[str, str] = {}
    for weight, label in zip(weights, labels, strict=True):
        # A store has one dtype and one device. The name of a module has no dots and is no attribute of its parent.
        full = f"{label}_{weight.dtype}_{weight.device}".replace("torch.", "") if mixed else label
        name = full.replace(".", "_").replace(":", "")
        name = f"group_{name}" if not name or name in reserved else name
        if names.setdefault(name, full) != full:
            raise ConfigError(f"mapping: {names[name]!r} and {full!r} would both be the group {name!r}; rename one")
        groups.setdefault(name, []).append(weight)
    return groups
