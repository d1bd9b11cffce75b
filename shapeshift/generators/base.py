"""The contract of a generator: a planner, a layout, and a module that makes the weights of one group."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from shapeshift.errors import ModelError
from shapeshift.generators.description import GroupDescription
from shapeshift.generators.mixing.buffer_pool import BufferPool
from shapeshift.generators.recomputed import Recomputed, own_precision
from shapeshift.names import Registry
from shapeshift.store_format import STORE_FORMATS, StoreFormat
from shapeshift.weights import Weight, mean_and_std

# The standard deviation where all weights start at zero: what transformers draws weights with by default.
DEFAULT_STD = 0.02


class GeneratorOptions(Protocol):
    """The fields of a :class:`shapeshift.Config` that a generator reads."""

    @property
    def upsample(self) -> str: ...

    @property
    def max_templates(self) -> int | None: ...

    @property
    def embedding_size(self) -> int: ...

    @property
    def ring_block(self) -> int: ...

    @property
    def init(self) -> str: ...

    @property
    def coefficients(self) -> str: ...

    @property
    def store(self) -> str: ...

    @property
    def store_noise(self) -> bool: ...


class Layout(abc.ABC):
    """How the shared parameters of one group are laid out: frozen data, made by a planner or read from a file.

    Subclasses are frozen dataclasses.
    """

    @property
    @abc.abstractmethod
    def num_parameters(self) -> int:
        """The number of trainable parameters."""

    @abc.abstractmethod
    def describe(self, weights: Sequence[Weight]) -> GroupDescription:
        """Describe where each weight comes from, for reports and pictures."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict that JSON can hold."""
        return dataclasses.asdict(self)  # type: ignore[call-overload,no-any-return]

    @classmethod
    @abc.abstractmethod
    def from_dict(cls, fields: Mapping[str, Any], weights: Sequence[Weight]) -> Self:
        """Rebuild the layout of a group's weights from :meth:`to_dict`.

        The fields may come from a damaged file. Nothing is allocated before they are checked here.

        Raises:
            KeyError, TypeError, ValueError: if the fields make no layout of these weights.
        """


LayoutT = TypeVar("LayoutT", bound=Layout)


class Planner(abc.ABC, Generic[LayoutT]):
    """Decides how the parameters of one group are laid out, before anything is allocated.

    Args:
        weights: the weights of the group.
        options: the config.
    """

    #: The share of the available parameters that :meth:`lay_out` uses at least.
    least_used: ClassVar[float] = 0.99

    def __init__(self, weights: Sequence[Weight], options: GeneratorOptions) -> None:
        self.weights = tuple(weights)
        self.options = options
        #: The number of entries of all weights together, and of the largest one.
        self.total = sum(weight.numel for weight in weights)
        self.largest = max(weight.numel for weight in weights)
        self.num_zero_weights = len(starting_at_zero(weights))

    @property
    @abc.abstractmethod
    def least(self) -> int:
        """The fewest parameters that the group needs."""

    @property
    @abc.abstractmethod
    def most(self) -> int:
        """The most parameters that the group can use."""

    @abc.abstractmethod
    def lay_out(self, available: int) -> LayoutT:
        """Lay out the group in at most ``available`` parameters, a number between :attr:`least` and :attr:`most`."""


class WeightGenerator(nn.Module, abc.ABC, Generic[LayoutT]):
    """The shared parameters of one group, and the formula that makes its weights from them.

    Every weight is multiplied by constant gains, which give it its starting standard deviation. A weight that starts
    at zero is also multiplied by a learned factor, which starts at zero.

    Args:
        weights: the weights of the group; all indices below refer to their order.
        layout: the layout of a planner for these weights.
    """

    #: The type of layout that the generator is built from.
    layout_type: ClassVar[type[Layout]]

    #: Whether ``init="fit"`` can fit the parameters to given weights.
    fits: ClassVar[bool] = False

    #: Keeps a call in the graphs of torch.fx that use none of its weights, since their layers may use them.
    _is_impure = True

    #: How the file keeps the parameters of :meth:`stored_names`, which are rounded to it in every pass.
    store_format: StoreFormat = STORE_FORMATS["float32"]

    #: Whether passes in training round only a random half of their entries.
    store_noise: bool = False

    #: Constant factors; :meth:`gains_of` finds those of a weight.
    gains: Tensor

    #: The indices of weights that pass on no gradient, since ``requires_grad`` of the weight itself was set to False.
    held: frozenset[int] = frozenset()

    #: The learned factors of the weights that start at zero, in their order; None without such weights.
    zero_factors: nn.Parameter | None

    def __init__(self, weights: Sequence[Weight], layout: LayoutT) -> None:
        super().__init__()
        self.weights = tuple(weights)
        self.layout = layout
        #: From the index of each weight that starts at zero to the position of its factor.
        self.zero_positions = {index: position for position, index in enumerate(starting_at_zero(weights))}
        factors = torch.empty(len(self.zero_positions), dtype=weights[0].dtype, device=weights[0].device)
        self.register_parameter("zero_factors", nn.Parameter(factors) if self.zero_positions else None)

    @classmethod
    @abc.abstractmethod
    def planner(cls, weights: Sequence[Weight], options: GeneratorOptions) -> Planner[LayoutT]:
        """Return the planner of a group of weights."""

    @classmethod
    def build(cls, weights: Sequence[Weight], layout: LayoutT, options: GeneratorOptions) -> Self:
        """Build the generator of a layout, its parameters uninitialised."""
        return cls(weights, layout).kept_as(options)

    def kept_as(self, options: GeneratorOptions) -> Self:
        """Set how the file keeps the store, as a config says, and return the generator."""
        self.store_format, self.store_noise = STORE_FORMATS[options.store], options.store_noise
        return self

    def stored_names(self) -> list[str]:
        """Return the names of the large parameters, which a file keeps in the format of the option ``store``."""
        return [name for name, _ in self.named_parameters() if name.startswith("store.")]

    def stored(self, parameter: Tensor) -> Tensor:
        """Return a large parameter as the file will hold it; :meth:`begin` reads each of them through this."""
        return self.store_format.straight_through(parameter, self.store_noise and self.training)

    @abc.abstractmethod
    def draw_parameters(self, rng: torch.Generator | None) -> None:
        """Draw starting values, on the CPU, so that a seed gives the same values on every device."""

    @abc.abstractmethod
    def gains_of(self, index: int) -> list[slice]:
        """Return where the gains of a weight lie."""

    @abc.abstractmethod
    def begin(self, buffers: BufferPool | None) -> Any:
        """Compute what all weights of one pass are made from, differentiably in the shared parameters.

        Args:
            buffers: The memory that the weights are written to, where the generator can do so; None for fresh memory.
        """

    @abc.abstractmethod
    def make(self, indices: Sequence[int], begun: Any) -> list[Tensor]:
        """Make weights by the generator's formula, from what :meth:`begin` returned."""

    @abc.abstractmethod
    def recompute(self, index: int, begun: Any) -> Recomputed:
        """Make one weight by the same operations as :meth:`make`, but only when it is read."""

    def coefficient_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that only combine those of the store; weight decay is not meant for them."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("store.")]

    def reset_gains(self) -> None:
        """Set the gains that a weight is measured with before :meth:`reset_parameters` scales it."""
        self.gains.fill_(1.0)

    @torch.no_grad()
    def reset_parameters(self, rng: torch.Generator | None = None) -> None:
        """Draw new starting values, and set the gains so that each weight starts with its own standard deviation."""
        if self.gains.is_meta:
            return
        with torch.device("cpu"):  # whatever the user's default device is
            self.draw_parameters(rng)
        if self.zero_factors is not None:
            self.zero_factors.fill_(1.0)
        calibrate_gains(self)
        if self.zero_factors is not None:
            self.zero_factors.zero_()

    def generate(self, indices: Sequence[int], buffers: BufferPool | None = None) -> list[Tensor]:
        """Generate weights, differentiably in the shared parameters.

        Args:
            indices: the indices of the weights in the group.
            buffers: the memory that the weights are written to, where the generator can do so; None for fresh memory.

        Returns:
            One tensor per index, of the shape of its weight.

        Raises:
            ModelError: if the parameters hold no values, as under offloading.
        """
        with own_precision(self.gains):
            weights = self.make(indices, self.start(buffers))
        if self.held:
            weights = [
                found.detach() if index in self.held else found for index, found in zip(indices, weights, strict=True)
            ]
        return weights

    def start(self, buffers: BufferPool | None = None) -> Any:
        """Return what :meth:`begin` returns, once the parameters hold values.

        Raises:
            ModelError: if they do not, as under offloading.
        """
        if not self.gains.is_meta and any(parameter.is_meta for parameter in self.parameters()):
            # Torch would compute with them all the same, and return uninitialised memory.
            raise ModelError(
                f"{self.weights[0].name} is generated from parameters that hold no values: they are on the "
                "meta device, where offloading (accelerate's cpu_offload, disk_offload or dispatch_model) keeps them "
                "until the layer runs that owns them, while all layers share them. Keep the compressed model on one "
                "device, or call shapeshift.materialize(model) before it is offloaded"
            )
        with own_precision(self.gains):
            return self.begin(buffers)

    def forward(self) -> list[Tensor]:
        """Return all weights of the group. The graphs of torch.fx call a generator as a module."""
        return self.generate(range(len(self.weights)))

    def factors(self) -> list[Tensor | None]:
        """Return the learned factor of each weight that starts at zero, and None for each other weight."""
        if self.zero_factors is None:
            return [None] * len(self.weights)
        found = self.zero_factors.unbind()
        places = map(self.zero_positions.get, range(len(self.weights)))
        return [None if place is None else found[place] for place in places]


def times(weight: Tensor, factor: Tensor | None = None) -> Tensor:
    """Multiply a weight that starts at zero by its learned factor; return any other weight as it is."""
    return weight if factor is None else weight * factor


def calibrate_gains(generator: WeightGenerator[Any]) -> None:
    """Set the gains so that each weight has its own starting standard deviation, by measuring what is generated."""
    generator.reset_gains()
    for index, weight in enumerate(generator.weights):
        _, measured = mean_and_std(generator.generate([index])[0])
        # A store of one entry stretched evenly has no deviation to scale.
        if measured > 0:
            for gains in generator.gains_of(index):
                generator.gains[gains] *= (weight.std or typical_std(generator.weights)) / measured


def typical_std(weights: Sequence[Weight]) -> float:
    """Return the standard deviation of the templates that only weights which start at zero read."""
    return max(weight.std for weight in weights) or DEFAULT_STD


def starting_at_zero(weights: Sequence[Weight]) -> list[int]:
    """Return the indices of the weights that start at zero; each of them has a learned factor."""
    return [index for index, weight in enumerate(weights) if weight.std == 0]


GENERATORS: Registry[type[WeightGenerator[Any]]] = Registry("generator")
