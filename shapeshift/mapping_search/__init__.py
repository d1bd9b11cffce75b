"""Learning which layers share parameters."""

from shapeshift.mapping_search.gradients import GradientMapping, learn_mapping_by_gradients
from shapeshift.mapping_search.kmeans import LearnedMapping, learn_mapping

__all__ = ["GradientMapping", "LearnedMapping", "learn_mapping", "learn_mapping_by_gradients"]
