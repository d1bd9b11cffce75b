"""The plan of a compressed model: which weights share what, decided before anything is changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from shapeshift.budget import Budget, count_parameters, parse_budget
from shapeshift.config import Config
from shapeshift.errors import BudgetError, ConfigError
from shapeshift.generators import GENERATORS, WeightGenerator
from shapeshift.mappings import Assignment, assign
from shapeshift.weights import Weight, find_weights

# What the module whose children the groups become, SharedParameters, has beside them.
_METHODS = {"begin", "check_unwritten", "end", "groups", "plan", "reset_parameters"}


@dataclass(frozen=True)
class GroupPlan:
    """One parameter group: its weights, and how its generator lays out their shared parameters.

    Attributes:
        name: the mapping's label, fit to name a module.
        weights: what the group generates.
        layout: what the generator planned; its type is the generator's own.
    """

    name: str
    weights: tuple[Weight, ...]
    layout: Any

    def to_dict(self, generator: type[WeightGenerator[Any]]) -> dict[str, Any]:
        """Return the fields as a dict that JSON can hold."""
        weights = [weight.to_dict() for weight in self.weights]
        return {"name": self.name, "weights": weights, "layout": generator.layout_to_dict(self.layout)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], generator: type[WeightGenerator[Any]]) -> GroupPlan:
        """Rebuild a group from :meth:`to_dict`."""
        weights = tuple(Weight.from_dict(weight) for weight in fields["weights"])
        return cls(fields["name"], weights, generator.layout_from_dict(fields["layout"]))


@dataclass(frozen=True)
class Plan:
    """What :func:`shapeshift.compress` does to a model.

    Attributes:
        config: the choices behind the plan.
        groups: the parameter groups.
        dense: the model's own number of trainable parameters.
        untouched: how many of them stay as they are.
        budget: the number of parameters that was allowed.
        errors: the relative error of each weight after a fit, by name; empty without one.
    """

    config: Config
    groups: tuple[GroupPlan, ...]
    dense: int
    untouched: int
    budget: int
    errors: Mapping[str, float] = field(default_factory=dict)

    @property
    def generator(self) -> type[WeightGenerator[Any]]:
        return GENERATORS[self.config.combine]

    @property
    def total(self) -> int:
        """The number of trainable parameters of the compressed model."""
        return self.untouched + sum(self.generator.size(group.layout) for group in self.groups)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as a dict that JSON can hold; devices are not part of it."""
        return {
            "config": self.config.to_dict(),
            "groups": [group.to_dict(self.generator) for group in self.groups],
            "dense": self.dense,
            "untouched": self.untouched,
            "budget": self.budget,
            "errors": dict(self.errors),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Plan:
        """Rebuild a plan from :meth:`to_dict`, its weights on the CPU.

        Raises:
            ConfigError: if the config names something that this version does not know.
            KeyError, TypeError, ValueError: if the dict does not come from :meth:`to_dict`.
        """
        config = Config.from_dict(fields["config"])
        generator = GENERATORS[config.combine]
        groups = tuple(GroupPlan.from_dict(group, generator) for group in fields["groups"])
        weights = [weight for group in groups for weight in group.weights]
        names = [name for weight in weights for name in weight.names]
        if not all(group.weights for group in groups) or not all(weight.names for weight in weights):
            raise ValueError("a group without weights, or a weight without a name")
        if len(set(names)) < len(names) or len({group.name for group in groups}) < len(groups):
            raise ValueError("two groups, or two weights, of one name")
        errors = {str(name): float(error) for name, error in fields.get("errors", {}).items()}
        return cls(config, groups, int(fields["dense"]), int(fields["untouched"]), int(fields["budget"]), errors)


def make_plan(model: nn.Module, budget: Budget, config: Config) -> Plan:
    """Decide which weights of a model share which parameters.

    Args:
        model: the model; it is not changed.
        budget: the most trainable parameters, as :func:`shapeshift.budget.parse_budget` reads it.
        config: the choices.

    Raises:
        BudgetError: if the budget cannot be read, or lies outside of what the config allows; it names the bound.
        ModelError, ConfigError: as :func:`shapeshift.weights.find_weights`.
    """
    setting = _Setting.of(model, config)
    allowed = parse_budget(budget, setting.dense)
    for bound, side in ((setting.least, "least"), (setting.most, "most")):
        if allowed < bound if side == "least" else allowed > bound:
            raise BudgetError(
                f"a budget of {allowed:,} parameters cannot be met: the {side} for this model and config is {bound:,} "
                f"({setting.untouched:,} that are not generated, and {bound - setting.untouched:,} in "
                f"{len(setting.groups)} stores; the model itself has {setting.dense:,}). "
                "Choose a budget on the other side of that bound, or change "
                + ("include, exclude or mapping" if side == "least" else "max_templates")
            )
    layouts = _allocate(setting, allowed - setting.untouched)
    plans = tuple(
        GroupPlan(name, tuple(group), layout)
        for (name, group), layout in zip(setting.groups.items(), layouts, strict=True)
    )
    return Plan(setting.config, plans, setting.dense, setting.untouched, allowed)


def budget_range(model: nn.Module, config: Config) -> tuple[int, int]:
    """Return the least and the most trainable parameters that a config allows for a model.

    Raises:
        ModelError, ConfigError: as :func:`make_plan`.
    """
    setting = _Setting.of(model, config)
    return setting.least, setting.most


@dataclass(frozen=True)
class _Setting:
    """What a plan is made from, before there is a budget."""

    config: Config
    groups: dict[str, list[Weight]]
    bounds: list[tuple[int, int]]
    dense: int
    untouched: int

    @classmethod
    def of(cls, model: nn.Module, config: Config) -> _Setting:
        weights = find_weights(model, config.include, config.exclude)
        dense = count_parameters(model)
        untouched = dense - sum(weight.numel for weight in weights)
        labels = assign(config.mapping, weights, config)
        if not isinstance(config.mapping, str):  # what is kept with the plan can be written down
            spelled = Assignment({weight.name: label for weight, label in zip(weights, labels, strict=True)})
            config = dataclasses.replace(config, mapping=spelled)
        groups = group_weights(weights, labels)
        generator = GENERATORS[config.combine]
        bounds = [(generator.least(group, config), generator.most(group, config)) for group in groups.values()]
        return cls(config, groups, bounds, dense, untouched)

    @property
    def least(self) -> int:
        return self.untouched + sum(least for least, _ in self.bounds)

    @property
    def most(self) -> int:
        return self.untouched + sum(most for _, most in self.bounds)


def group_weights(weights: Sequence[Weight], labels: Sequence[str]) -> dict[str, list[Weight]]:
    """Sort weights into groups of one label, one dtype and one device, by a name that a module can have.

    Raises:
        ConfigError: if two labels would make the same name.
    """
    mixed = len({(weight.dtype, weight.device) for weight in weights}) > 1
    groups: dict[str, list[Weight]] = {}
    names: dict[str, str] = {}
    taken = _METHODS.union(dir(nn.ModuleDict()))  # other libraries add to it
    for weight, label in zip(weights, labels, strict=True):
        # A store has one dtype and one device; the names of modules have no dots, and are not those of attributes.
        full = f"{label}_{weight.dtype}_{weight.device}".replace("torch.", "") if mixed else label
        name = full.replace(".", "_").replace(":", "")
        name = f"group_{name}" if not name or name in taken else name
        if names.setdefault(name, full) != full:
            raise ConfigError(f"mapping: {names[name]!r} and {full!r} would both be the group {name!r}; rename one")
        groups.setdefault(name, []).append(weight)
    return groups


def _allocate(setting: _Setting, available: int) -> list[Any]:
    """Split a budget over groups in proportion to their weights' sizes, and pass on what a group cannot use.

    A group of one weight shares with nobody, and gets that weight's own size.
    """
    config, groups, bounds = setting.config, list(setting.groups.values()), setting.bounds
    generator = GENERATORS[config.combine]
    sizes = [sum(weight.numel for weight in group) for group in groups]
    own = _own_sizes(groups, available, bounds, config)
    bound = [(own[index], own[index]) if index in own else found for index, found in enumerate(bounds)]
    shares = _proportional(sizes, available, bound)
    layouts = [generator.plan(group, share, config) for group, share in zip(groups, shares, strict=True)]
    left = available - sum(generator.size(layout) for layout in layouts)
    # Largest first: a group that can take all of it leaves the others in proportion. Those of one weight come last.
    for index in sorted(range(len(groups)), key=lambda index: (index in own, -sizes[index])):
        if index in own and left <= available // 100:
            break
        used, (_, most) = generator.size(layouts[index]), bounds[index]
        layout = generator.plan(groups[index], min(used + left, most), config)
        if generator.size(layout) > used:
            layouts[index] = layout
            left -= generator.size(layout) - used
    return layouts


def _own_sizes(
    groups: Sequence[Sequence[Weight]], available: int, bounds: Sequence[tuple[int, int]], config: Config
) -> dict[int, int]:
    """Return the size of each group of one weight, as far as all others then have at least half of their share.

    Where budgets are small, the largest of them go without.
    """
    total = sum(weight.numel for group in groups for weight in group)
    own: dict[int, int] = {}
    left, others, needed = available, total, sum(least for least, _ in bounds)
    for size, index in sorted((group[0].numel, index) for index, group in enumerate(groups) if len(group) == 1):
        least, most = bounds[index]
        if groups[index][0].std == 0:
            # A factor that it starts at zero with. A fit leaves it at that, and has a better use for the rest.
            size = least if config.init == "fit" else size + 1
        left, others, needed = left - size, others - size, needed - least
        if left < max(needed, available / total * others / 2):
            break
        if least <= size <= most:
            own[index] = size
    return own


def _proportional(sizes: Sequence[int], available: int, bounds: Sequence[tuple[int, int]]) -> list[int]:
    """Split ``available`` in proportion to ``sizes`` within bounds: those that meet a bound get it, the rest share."""
    shares: dict[int, int] = {}
    while len(shares) < len(sizes):
        open_ = [index for index in range(len(sizes)) if index not in shares]
        ratio = (available - sum(shares.values())) / sum(sizes[index] for index in open_)
        below = {index: bounds[index][0] for index in open_ if ratio * sizes[index] < bounds[index][0]}
        above = {index: bounds[index][1] for index in open_ if ratio * sizes[index] > bounds[index][1]}
        shares |= below or above or {index: int(ratio * sizes[index]) for index in open_}
    return [shares[index] for index in range(len(sizes))]
