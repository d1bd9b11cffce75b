"""What a generator is: the shared parameters of one group, and the weights that they make."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from shapeshift.errors import GeneratedWeightError, ModelError
from shapeshift.generators.description import GroupDescription
from shapeshift.generators.mixing.buffer_pool import BufferPool
from shapeshift.names import Registry
from shapeshift.surgery.forward_pass import ForwardPass
from shapeshift.surgery.lazy_weight import LazyWeight
from shapeshift.weights import Weight, mean_and_std

LayoutT = TypeVar("LayoutT")

# The standard deviation where all weights start at zero: what transformers draws weights with by default.
DEFAULT_STD = 0.02


class Options(Protocol):
    """What a generator reads of a :class:`shapeshift.Config`."""

    @property
    def upsample(self) -> str: ...

    @property
    def max_templates(self) -> int | None: ...

    @property
    def embedding_size(self) -> int: ...

    @property
    def init(self) -> str: ...

    @property
    def coefficients(self) -> str: ...


class WeightGenerator(nn.Module, abc.ABC, Generic[LayoutT]):
    """The shared parameters of the weights that are mapped to one group.

    During a forward pass of the model the weights are generated once, together, between :meth:`begin` and
    :meth:`end`. At any other time whoever reads a weight gets a handle that generates it when it is used.

    Every weight is multiplied by constant gains, which give it its starting standard deviation. One that starts at zero
    is multiplied by a learned number besides, which starts at zero.

    Args:
        weights: what is generated, in the order of all indices below.
        layout: what :meth:`plan` returned for them.
    """

    #: Constants that a generator multiplies with, each weight's at :meth:`gains_of` it.
    gains: Tensor

    #: The learned numbers of the weights that start at zero, in their order; None without such weights.
    zero_factors: nn.Parameter | None

    #: The share of what is available that :meth:`plan` uses at least.
    least_used: ClassVar[float] = 0.99

    #: Whether the parameters can be fitted to given weights, by means of :meth:`linear_parts`.
    fits: ClassVar[bool] = False

    def __init__(self, weights: Sequence[Weight], layout: LayoutT) -> None:
        super().__init__()
        self.weights = tuple(weights)
        self.layout = layout
        #: The place of each weight's number in ``zero_factors``.
        self.zeros = {index: place for place, index in enumerate(starting_at_zero(weights))}
        factors = torch.empty(len(self.zeros), dtype=weights[0].dtype, device=weights[0].device)
        self.register_parameter("zero_factors", nn.Parameter(factors) if self.zeros else None)
        self._memory = BufferPool()
        # One attribute, so that threads that run the model at once never see one's weights with the other's mode.
        self._current: ForwardPass | None = None

    @classmethod
    @abc.abstractmethod
    def least(cls, weights: Sequence[Weight], options: Options) -> int:
        """Return the fewest parameters that the group can do with."""

    @classmethod
    @abc.abstractmethod
    def most(cls, weights: Sequence[Weight], options: Options) -> int:
        """Return the most parameters that the group can use."""

    @classmethod
    @abc.abstractmethod
    def plan(cls, weights: Sequence[Weight], available: int, options: Options) -> LayoutT:
        """Lay out the group in at most ``available`` parameters, between :meth:`least` and :meth:`most`."""

    @staticmethod
    @abc.abstractmethod
    def size(layout: LayoutT) -> int:
        """Return how many trainable parameters a layout has."""

    @classmethod
    @abc.abstractmethod
    def describe(cls, weights: Sequence[Weight], layout: LayoutT) -> GroupDescription:
        """Tell which parts of which stores each weight comes from, for reports and pictures."""

    @staticmethod
    @abc.abstractmethod
    def layout_to_dict(layout: LayoutT) -> dict[str, Any]:
        """Return the layout as a dict that JSON can hold."""

    @staticmethod
    @abc.abstractmethod
    def layout_from_dict(fields: dict[str, Any]) -> LayoutT:
        """Rebuild a layout from :meth:`layout_to_dict`."""

    @classmethod
    @abc.abstractmethod
    def build(cls, weights: Sequence[Weight], layout: LayoutT, options: Options) -> WeightGenerator[LayoutT]:
        """Make the group of a layout, its parameters uninitialised."""

    @abc.abstractmethod
    def draw_parameters(self, generator: torch.Generator | None) -> None:
        """Draw starting values, on the CPU, so that one seed gives the same ones on every device."""

    @abc.abstractmethod
    def gains_of(self, index: int) -> list[slice]:
        """Tell where the gains of a weight lie."""

    @abc.abstractmethod
    def make(self, indices: Sequence[int], memory: BufferPool | None) -> list[Tensor]:
        """Generate weights as if none started at zero; see :meth:`generate`."""

    @abc.abstractmethod
    def coefficient_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that only mix others, and which weight decay is therefore not meant for."""

    @property
    def typical_std(self) -> float:
        """The standard deviation of what is drawn for weights that start at zero."""
        return max(weight.std for weight in self.weights) or DEFAULT_STD

    def reset_gains(self) -> None:
        """Set the gains to what counts as one."""
        self.gains.fill_(1.0)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw new starting values, so that each weight starts with its own standard deviation."""
        if self.gains.is_meta:
            return
        with torch.device("cpu"):  # whatever the user's default device is
            self.draw_parameters(generator)
        if self.zero_factors is not None:
            self.zero_factors.fill_(1.0)
        self.reset_gains()
        for index, weight in enumerate(self.weights):
            _, measured = mean_and_std(self.generate([index])[0])
            # A store of one number stretched evenly has no deviation to scale.
            if measured > 0:
                for gains in self.gains_of(index):
                    self.gains[gains] *= (weight.std or self.typical_std) / measured
        if self.zero_factors is not None:
            self.zero_factors.zero_()

    def generate(self, indices: Sequence[int], memory: BufferPool | None = None) -> list[Tensor]:
        """Generate the weights of the given indices, differentiably in the shared parameters.

        Args:
            indices: which of the group's weights.
            memory: where to write them if the generator can; fresh memory if None.

        Raises:
            ModelError: if the parameters were put elsewhere until a module's own forward pass, as offloading does.
        """
        if not self.gains.is_meta and any(parameter.is_meta for parameter in self.parameters()):
            # Torch would calculate with them all the same, and return memory that nobody wrote to.
            raise ModelError(
                f"{self.weights[indices[0]].name} is generated from parameters that hold no values: they are on the "
                "meta device, where offloading (accelerate's cpu_offload, disk_offload or dispatch_model) keeps them "
                "until the layer runs that owns them, while all layers share them. Keep the compressed model on one "
                "device, or call shapeshift.materialize(model) before it is offloaded"
            )
        # In the parameters' own precision: autocast is for what the weights are used in, and not for the meta device.
        kind = self.gains.device.type
        with contextlib.nullcontext() if self.gains.is_meta else torch.autocast(kind, enabled=False):
            weights = self.make(indices, memory)
            return [self._times_zero_factor(index, weight) for index, weight in zip(indices, weights, strict=True)]

    def _times_zero_factor(self, index: int, weight: Tensor) -> Tensor:
        if self.zero_factors is None or index not in self.zeros:
            return weight
        return weight * self.zero_factors[self.zeros[index]]

    def linear_parts(self) -> list[list[nn.Parameter]]:
        """Return the parameters in parts, in each of which the weights are linear while the others are constant.

        A fit solves for the parts in turn, in this order. Factors of weights that start at zero are not among them.
        """
        return []

    def start_fit(self) -> None:
        """Prepare the starting values, from :meth:`reset_parameters`, for a fit."""

    def finish_fit(self) -> None:
        """Make the fitted values as fit for training as starting values are, and leave the weights as they are."""

    @property
    def is_running(self) -> bool:
        """Whether a forward pass has begun and not ended."""
        return self._current is not None

    def begin(self) -> None:
        """Generate every weight for the forward pass that starts now."""
        weights = self.generate(range(len(self.weights)), self._memory)
        self._current = ForwardPass.of(weights, list(self.parameters()))

    def check_unwritten(self) -> None:
        """Raise if the forward pass wrote to a weight, which would be lost.

        Raises:
            GeneratedWeightError: if so.
        """
        written = self._current.written() if self._current is not None else []
        if written:
            weight = self.weights[written[0]]
            raise GeneratedWeightError(
                f"{weight.name} {weight.shape} is generated from shared parameters, and was written to during the "
                "forward pass, which is lost after it. Write before shapeshift.compress(model, ...), or keep the "
                "weight out with exclude="
            )

    def end(self) -> None:
        """Forget the weights of the forward pass that ends now."""
        self._current = None

    def read(self, index: int) -> Tensor:
        """Return one weight: the current forward pass's own, or a handle that generates it when it is used."""
        current = self._current
        if current is not None and current.serves():
            return current.weights[index]
        if torch.compiler.is_compiling():
            return self.generate([index])[0]
        return LazyWeight.of(self, index)

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles start outside of any forward pass.
        return {**self.__dict__, "_current": None}


def starting_at_zero(weights: Sequence[Weight]) -> list[int]:
    """Return the indices of the weights that start at zero, each of which takes a learned number."""
    return [index for index, weight in enumerate(weights) if weight.std == 0]


GENERATORS: Registry[type[WeightGenerator[Any]]] = Registry("generator")
