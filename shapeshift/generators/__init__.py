"""Generators: how the weights of a parameter group come out of its shared parameters.

A generator is a :class:`~shapeshift.generators.base.ParameterGroup`. To add one, write a file with a class decorated
by ``@GENERATORS.register("name")`` and import it below.
"""

from shapeshift.generators import avg, emb, hypernetwork, rr, softmax, superweights, wavg
from shapeshift.generators.base import GENERATORS, ParameterGroup

__all__ = ["GENERATORS", "ParameterGroup", "avg", "emb", "hypernetwork", "rr", "softmax", "superweights", "wavg"]
