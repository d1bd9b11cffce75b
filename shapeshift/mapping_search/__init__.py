"""Learning which layers share parameters."""

from shapeshift.mapping_search.gradients import GradientMapping
from shapeshift.mapping_search.kmeans import LearnedMapping
from shapeshift.mapping_search.search import learn_mapping

__all__ = ["GradientMapping", "LearnedMapping", "learn_mapping"]
