"""What a user chooses about sharing: one frozen, validated dataclass that survives JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shapeshift.errors import ConfigError
from shapeshift.generators import GENERATORS
from shapeshift.mappings import MAPPINGS
from shapeshift.upsamplers import UPSAMPLERS


@dataclass(frozen=True)
class Config:
    """How a model's weights are generated from shared parameters.

    Args:
        mapping: which weights share a store: a name in ``shapeshift.mappings.MAPPINGS``.
        combine: how a weight is made of templates where the store has room for them (parameter downsampling):
            a name in ``shapeshift.generators.GENERATORS``.
        upsample: how a weight larger than its store is stretched from it (parameter upsampling): a name in
            ``shapeshift.upsamplers.UPSAMPLERS``.
        max_templates: the most templates that one weight mixes. None chooses by the budget: two, and above the
            model's own size twice the ratio of budget to size, so that each template serves two weights on average,
            up to 16.
        include: names or shell patterns of parameters or modules; when given, nothing else is generated.
        exclude: names or shell patterns of parameters or modules that keep their own weights.
        seed: seeds the stores' starting values. None draws from torch's global generator, as layers do.

    Raises:
        ConfigError: if a value is of the wrong type or range, or a name is unknown.
    """

    mapping: str = "single"
    combine: str = "wavg"
    upsample: str = "tile"
    max_templates: int | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        for field in ("include", "exclude"):
            value = getattr(self, field)
            if isinstance(value, str) or not all(isinstance(pattern, str) for pattern in value):
                raise ConfigError(f"{field} must be a sequence of names or patterns, not {value!r}")
            object.__setattr__(self, field, tuple(value))
        for field, registry in (("mapping", MAPPINGS), ("combine", GENERATORS), ("upsample", UPSAMPLERS)):
            registry[getattr(self, field)]
        for field, least in (("max_templates", 1), ("seed", 0)):
            value = getattr(self, field)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ConfigError(f"{field} must be None or an integer of at least {least}, not {value!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict that JSON can hold."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}

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
