"""One group for each shape."""

from collections.abc import Sequence

from shapeshift.mappings.base import MAPPINGS, MappingOptions
from shapeshift.weights import Weight


@MAPPINGS.register("shape")
def shape(weights: Sequence[Weight], options: MappingOptions) -> list[str]:
    """Let the weights of one shape share a store, so that whole layers can be shared (Savarese and Maire 2019)."""
    return ["x".join(map(str, weight.shape)) for weight in weights]
