"""What a user chooses about sharing: one frozen, validated dataclass that survives JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from shapeshift.errors import ConfigError
from shapeshift.generators import GENERATORS
from shapeshift.mappings import MAPPINGS, Assignment
from shapeshift.upsamplers import UPSAMPLERS


@dataclass(frozen=True)
class Config:
    """How a model's weights are generated from shared parameters.

    Args:
        mapping: which weights share a store: a name in ``shapeshift.mappings.MAPPINGS``; a dict from layers (names
            or shell patterns) to groups, such as :func:`shapeshift.learn_mapping` returns; a list of one group per
            weight; or a function from a weight's dotted name to its group.
        combine: how a weight is made of templates where the store has room for them (parameter downsampling):
            a name in ``shapeshift.generators.GENERATORS``.
        upsample: how a weight larger than its store is stretched from it (parameter upsampling): a name in
            ``shapeshift.upsamplers.UPSAMPLERS``.
        max_templates: the most templates that one weight mixes. None chooses by the budget: twice the ratio of budget
            to size, rounded, so that each template serves two weights on average; at least one, or four for a fit, and
            up to 16.
        num_groups: how many groups ``mapping="random"`` makes.
        embedding_size: the length of a layer's embedding with ``combine="emb"``.
        include: names or shell patterns of parameters or modules; when given, nothing else is generated.
        exclude: names or shell patterns of parameters or modules that keep their own weights.
        seed: seeds the stores' starting values. None draws from torch's global generator, as layers do.
        coefficients: how the coefficients of ``combine="wavg"`` start: ``"geometric"`` halve from template to
            template, in random order and with random signs; ``"orthogonal"`` form a matrix of layers by templates with
            orthonormal columns, in which layers learn faster how much they share.
        init: what the shared parameters start as: ``"random"`` draws them, so that each weight has the deviation it
            had; ``"fit"`` fits them to the values that the model's weights have, which is meant for trained models.

    Raises:
        ConfigError: if a value is of the wrong type or range, or a name is unknown.
    """

    mapping: str | Mapping[str, str] | Sequence[str] | Callable[[str], str] = "single"
    combine: str = "wavg"
    upsample: str = "tile"
    max_templates: int | None = None
    num_groups: int = 4
    embedding_size: int = 24
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    seed: int | None = None
    coefficients: str = "geometric"
    init: str = "random"

    def __post_init__(self) -> None:
        for field in ("include", "exclude"):
            value = getattr(self, field)
            names = (value,) if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)
            if isinstance(value, str) or not all(isinstance(name, str) for name in names):
                raise ConfigError(f"{field} must be a sequence of names or patterns, not {value!r}")
            object.__setattr__(self, field, names)
        if isinstance(self.mapping, str):
            MAPPINGS[self.mapping]
        elif isinstance(self.mapping, Mapping):
            if not isinstance(self.mapping, Assignment):
                object.__setattr__(self, "mapping", Assignment(self.mapping))
        elif isinstance(self.mapping, Sequence):
            labels = (label if label is None else str(label) for label in self.mapping)
            object.__setattr__(self, "mapping", tuple(labels))
        elif not callable(self.mapping):
            raise ConfigError(f"mapping must be a name, a dict, a list or a function, not {self.mapping!r}")
        for field, registry in (("combine", GENERATORS), ("upsample", UPSAMPLERS)):
            registry[getattr(self, field)]
        if self.coefficients not in ("geometric", "orthogonal"):
            raise ConfigError(f'coefficients must be "geometric" or "orthogonal", not {self.coefficients!r}')
        if self.init not in ("random", "fit"):
            raise ConfigError(f'init must be "random" or "fit", not {self.init!r}')
        if self.init == "fit" and not GENERATORS[self.combine].fits:
            able = ", ".join(repr(name) for name in GENERATORS if GENERATORS[name].fits)
            raise ConfigError(
                f"combine: {self.combine!r} cannot be fitted to the weights of a model; with init='fit' choose {able}"
            )
        for field, least, optional in (
            ("max_templates", 1, True),
            ("num_groups", 1, False),
            ("embedding_size", 1, False),
            ("seed", 0, True),
        ):
            value = getattr(self, field)
            if value is None and optional:
                continue
            if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) < 2**63:
                kind = "None or an integer" if optional else "an integer"
                raise ConfigError(f"{field} must be {kind} of at least {least} and below 2**63, not {value!r}")
            object.__setattr__(self, field, int(value))

    @classmethod
    def chosen(cls, config: Config | None, options: Mapping[str, Any]) -> Config:
        """Return a config, the default one if None, with some fields set anew.

        Raises:
            ConfigError: if it is no config, or an option is unknown or not valid.
        """
        if not isinstance(config, cls | None):
            raise ConfigError(f"config must be a shapeshift.Config, not {config!r}")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := ", ".join(sorted(set(options) - known)):
            raise ConfigError(f"unknown option {unknown}; the options are {', '.join(sorted(known))}")
        return dataclasses.replace(config or cls(), **options)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict that JSON can hold.

        Raises:
            ConfigError: if the mapping is a function; the config of a plan has it spelled out.
        """
        if callable(self.mapping):
            raise ConfigError("a mapping that is a function cannot be written down; model.shapeshift.plan.config can")
        fields = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}
        return {**fields, "mapping": dict(self.mapping)} if isinstance(self.mapping, Assignment) else fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Config:
        """Rebuild a config from :meth:`to_dict`.

        Raises:
            ConfigError: if a field is unknown (a file of a newer version) or a value is not valid.
        """
        unknown = set(fields) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise ConfigError(f"unknown config fields {sorted(unknown)}: the file may come from a newer version")
        return cls(**fields)
