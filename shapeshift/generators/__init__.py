"""Generators: how the weights of a parameter group come out of its shared parameters.

A generator is a :class:`~shapeshift.generators.base.WeightGenerator`. To add one, write a file with a class decorated
by ``@GENERATORS.register("name")`` and import it below.
"""

from shapeshift.generators import avg, emb, hypernetwork, ring, rr, softmax, superweights, wavg
from shapeshift.generators.base import GENERATORS, WeightGenerator

__all__ = [
    "GENERATORS",
    "WeightGenerator",
    "avg",
    "emb",
    "hypernetwork",
    "ring",
    "rr",
    "softmax",
    "superweights",
    "wavg",
]
