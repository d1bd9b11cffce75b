"""Random groups."""

from collections.abc import Sequence

import numpy as np

from shapeshift.mappings.base import MAPPINGS, MappingOptions
from shapeshift.weights import Weight


@MAPPINGS.register("random")
def random(weights: Sequence[Weight], options: MappingOptions) -> list[str]:
    """Assign each weight to one of ``num_groups`` groups at random (Plummer et al. 2022, section 3.2, "random").

    The same ``seed`` gives the same groups. Without a seed, they are those of seed 0.
    """
    labels = np.random.default_rng(options.seed or 0).integers(options.num_groups, size=len(weights))
    return [f"group{label}" for label in labels]
