"""Generators: how the weights of a parameter group come out of its shared parameters.

A generator is a :class:`~shapeshift.generators.base.ParameterGroup`. To add one, write a file with a class decorated
by ``@GENERATORS.register("name")`` and import it below.
"""

from typing import Any

from shapeshift.generators.base import ParameterGroup
from shapeshift.registry import Registry

GENERATORS: Registry[type[ParameterGroup[Any]]] = Registry("generator")

from shapeshift.generators import wavg  # noqa: E402

__all__ = ["GENERATORS", "ParameterGroup", "wavg"]
