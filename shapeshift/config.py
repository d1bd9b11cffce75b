"""The configuration: one frozen, validated dataclass that JSON can hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from shapeshift.errors import ConfigError
from shapeshift.generators import GENERATORS
from shapeshift.mappings import MAPPINGS, Assignment
from shapeshift.names import did_you_mean
from shapeshift.store_format import STORE_FORMATS
from shapeshift.upsamplers import UPSAMPLERS

# The values of each option that has few, and the least of each integer with whether it may be None.
_CHOICES = {
    "coefficients": ("geometric", "orthogonal"),
    "init": ("random", "fit"),
    "store": tuple(STORE_FORMATS),
    "rest": ("float32", "bfloat16", "float16"),
}
_SWITCHES = ("recompute", "store_noise")
_INTEGERS = {
    "max_templates": (1, True),
    "num_groups": (1, False),
    "embedding_size": (1, False),
    "ring_block": (1, False),
    "seed": (0, True),
}


@dataclass(frozen=True)
class Config:
    """How a model's weights are generated from shared parameters.

    Args:
        mapping: Which weights share a store. A name in ``shapeshift.mappings.MAPPINGS``; a dict from layers (names
            or shell patterns) to groups, such as :func:`shapeshift.learn_mapping` returns; a list of one group per
            weight; or a function from a weight's dotted name to its group.
        combine: How a weight is made of templates where the store has room for them (parameter downsampling). A name
            in ``shapeshift.generators.GENERATORS``.
        upsample: How a weight larger than its store is stretched from it (parameter upsampling). A name in
            ``shapeshift.upsamplers.UPSAMPLERS``.
        max_templates: The most templates that one weight combines. None chooses by the budget: one up to the model's
            own size, and above it twice the ratio of budget to size, rounded, so that each template serves two weights
            on average; four at least for a fit, and up to 16.
        num_groups: The number of groups that ``mapping="random"`` makes.
        embedding_size: The length of a layer's embedding with ``combine="emb"``.
        include: Names or shell patterns of parameters or modules. When given, nothing else is generated.
        exclude: Names or shell patterns of parameters or modules that keep their own weights.
        seed: The seed of the stores' starting values. None draws from torch's global generator, as layers do.
        coefficients: How the coefficients of ``combine="wavg"`` start. ``"geometric"`` ones halve from template to
            template, in random order and with random signs. ``"orthogonal"`` ones form a matrix of layers by templates
            with orthonormal columns, in which layers learn faster how much they share.
        init: How the shared parameters start. ``"random"`` draws them, so that each weight has the deviation that it
            had. ``"fit"`` fits them to the values of the model's weights, which is meant for trained models.
        recompute: Whether a weight lives only while its layer runs, and is generated again in the backward pass, so
            that the memory of training follows the budget. Otherwise all weights live until the backward pass is over.
            Outputs and gradients are the same, bit by bit. :func:`shapeshift.set_recompute` changes it later.
        ring_block: The number of neighbouring entries that ``combine="ring"`` keeps together, with one sign. Small
            blocks share more evenly, and take more time and memory: an index and a sign for each block of the weights.
        store: How :func:`shapeshift.save` keeps the stores: in ``"float32"`` (or the model's own dtype), in
            ``"bfloat16"`` or ``"float16"``, or as packed integers of 8, 6 or 4 bits, ``"int8"``, ``"int6"`` or
            ``"int4"``, with one scale for every 64 entries. Weights are generated from the rounded entries, in training
            too, where gradients pass straight through: a model that is loaded gives the outputs of the one that was
            saved, bit by bit. Coefficients and gains stay as they are.
        store_noise: Whether training rounds only a random half of the stores' entries in each pass, which disturbs the
            gradients less (Fan et al. 2021). Evaluation rounds all of them.
        rest: How :func:`shapeshift.save` keeps the parameters that are not generated, such as biases and norms: in
            ``"float32"`` (or the model's own dtype), ``"bfloat16"`` or ``"float16"``. They are rounded when they are
            saved, and not before. Buffers stay as they are.

    Raises:
        ConfigError: if a value is of the wrong type or range, or a name is unknown.

    Example:
        >>> import shapeshift
        >>> config = shapeshift.Config(mapping="shape", exclude=["head"])
        >>> config.combine
        'wavg'
        >>> shapeshift.Config.from_dict(config.to_dict()) == config
        True
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
    recompute: bool = False
    ring_block: int = 1024
    store: str = "float32"
    store_noise: bool = False
    rest: str = "float32"

    def __post_init__(self) -> None:
        self._check_patterns()
        self._check_mapping()
        self._check_names()
        self._check_integers()
        for field in _SWITCHES:
            if not isinstance(getattr(self, field), bool):
                raise ConfigError(f"{field} must be True or False, not {getattr(self, field)!r}")

    def _check_patterns(self) -> None:
        for field in ("include", "exclude"):
            value = getattr(self, field)
            names = (value,) if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)
            if isinstance(value, str) or not all(isinstance(name, str) for name in names):
                raise ConfigError(f"{field} must be a sequence of names or patterns, not {value!r}")
            object.__setattr__(self, field, names)

    def _check_mapping(self) -> None:
        if isinstance(self.mapping, str):
            MAPPINGS[self.mapping]  # raises where the name is unknown
        elif isinstance(self.mapping, Mapping):
            if not isinstance(self.mapping, Assignment):
                object.__setattr__(self, "mapping", Assignment(self.mapping))
        elif isinstance(self.mapping, Sequence):
            labels = (label if label is None else str(label) for label in self.mapping)
            object.__setattr__(self, "mapping", tuple(labels))
        elif not callable(self.mapping):
            raise ConfigError(f"mapping must be a name, a dict, a list or a function, not {self.mapping!r}")

    def _check_names(self) -> None:
        for field, registry in (("combine", GENERATORS), ("upsample", UPSAMPLERS)):
            registry[getattr(self, field)]  # raises where the name is unknown
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                named = " or ".join(f'"{choice}"' for choice in choices)
                raise ConfigError(f"{field} must be {named}, not {getattr(self, field)!r}")
        if self.init == "fit" and not GENERATORS[self.combine].fits:
            able = ", ".join(repr(name) for name in GENERATORS if GENERATORS[name].fits)
            raise ConfigError(
                f"combine: {self.combine!r} cannot be fitted to the weights of a model; with init='fit' choose {able}"
            )

    def _check_integers(self) -> None:
        for field, (least, optional) in _INTEGERS.items():
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
        known = sorted(field.name for field in dataclasses.fields(cls))
        for name in sorted(set(options) - set(known)):
            raise ConfigError(f"unknown option {name}; the options are {', '.join(known)}{did_you_mean(name, known)}")
        return dataclasses.replace(config or cls(), **options)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict that JSON can hold.

        Raises:
            ConfigError: if the mapping is a function; the config of a plan has it spelled out.
        """
        if callable(self.mapping):
            raise ConfigError("a mapping that is a function cannot be saved; model.shapeshift.plan.config can")
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
