"""Round robin: each template serves weights in turn."""

from __future__ import annotations

from shapeshift.generators.avg import Average
from shapeshift.generators.base import GENERATORS
from shapeshift.generators.mixing.layout import TemplatePlanner


class OneTemplatePlanner(TemplatePlanner):
    """Lays out one template for each weight."""

    def template_limit(self, store_size: int) -> int:
        return 1


@GENERATORS.register("rr")
class RoundRobin(Average):
    """Read one template as it is (Plummer et al. 2022, section 3.1, "Round Robin").

    The weights take the templates of the store in turn: where it holds K of them, template k serves the weights k,
    k + K, k + 2K and so on. A store cannot use more than one template for each weight.
    """

    planner_type = OneTemplatePlanner
