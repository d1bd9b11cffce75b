"""The parameters that a layer with generated weights has of its own, guarded from tools that replace weights."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from torch import nn
from torch.nn.utils import parametrize

from shapeshift.errors import GeneratedWeightError
from shapeshift.surgery.forward_pass import WeightSource
from shapeshift.surgery.lazy_weight import LazyWeight
from shapeshift.weights import Weight


class OwnParameters(dict[str, nn.Parameter | None]):
    """A module's ``_parameters`` without the generated ones.

    Pruning, weight norm and spectral norm take a weight out of it to put others in its place. For a generated weight
    that is an error before they have changed anything.

    Args:
        parameters: The parameters of the module that are not generated, by name.
        sources: The source and the index of each generated parameter, by name.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter | None], sources: Mapping[str, tuple[WeightSource, int]]
    ) -> None:
        super().__init__(parameters)
        self._sources = sources

    def __missing__(self, name: str) -> NoReturn:
        if name not in self._sources:
            raise KeyError(name)
        source, index = self._sources[name]
        _refuse(source.weights[index])

    def __contains__(self, name: object) -> bool:
        if dict.__contains__(self, name):  # not super(): every read of a bias asks
            return True
        # torch.nn.utils.parametrize looks for the weight here, and changes nothing until it has found it. All others
        # that ask are told that a generated weight is no parameter.
        if name in self._sources and sys._getframe(1).f_globals.get("__name__") == parametrize.__name__:
            self.__missing__(str(name))
        return False

    def __delitem__(self, name: str) -> None:
        if name in self:
            super().__delitem__(name)
        else:
            self.__missing__(name)


def refuse_generated(parameter: Any) -> None:
    """Raise if a generated weight is registered as a parameter.

    Raises:
        GeneratedWeightError: if so.
    """
    if isinstance(parameter, LazyWeight):
        _refuse(parameter._origin.generator.weights[parameter._origin.index])


def _refuse(weight: Weight) -> NoReturn:
    raise GeneratedWeightError(
        f"{weight.name} {weight.shape} is generated from shared parameters and is no parameter that could be replaced: "
        "apply pruning, weight norm, spectral norm and other parametrizations before shapeshift.compress(model, ...), "
        "or after shapeshift.materialize(model)"
    )
