"""Round robin: each template serves weights in turn."""

from __future__ import annotations

from collections.abc import Sequence

from shapeshift.generators.avg import Average
from shapeshift.generators.base import GENERATORS, Options
from shapeshift.weights import Weight


@GENERATORS.register("rr")
class RoundRobin(Average):
    """Read one template as it is (Plummer et al. 2022, section 3.1, "Round Robin").

    The weights take the templates of the store in turn: where it holds K of them, template k serves the weights k,
    k + K, k + 2K and so on. A store cannot use more than one template for each weight.
    """

    @classmethod
    def template_limit(cls, weights: Sequence[Weight], store_size: int, options: Options) -> int:
        return 1
