"""Mappings decide which weights share a parameter store.

A mapping is a function from the weights of a model and a config to one label per weight. Weights with equal labels form
a parameter group. To add a mapping, write a file with a function decorated by ``@MAPPINGS.register("name")`` and import
it below.
"""

from shapeshift.mappings import random, shape, single
from shapeshift.mappings.assignment import Assignment, assign
from shapeshift.mappings.base import MAPPINGS, Mapping

__all__ = ["MAPPINGS", "Assignment", "Mapping", "assign", "random", "shape", "single"]
