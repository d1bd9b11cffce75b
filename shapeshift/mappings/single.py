"""One group for all weights."""

from collections.abc import Sequence

from shapeshift.mappings.base import MAPPINGS, MappingOptions
from shapeshift.weights import Weight


@MAPPINGS.register("single")
def single(weights: Sequence[Weight], options: MappingOptions) -> list[str]:
    """Let all weights share one store (Plummer et al. 2022, section 3.2, "single group")."""
    return ["all"] * len(weights)
