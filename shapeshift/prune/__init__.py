"""Pruning: models with fewer filters, chosen by the ranks of their feature maps."""

from shapeshift.prune.feature_ranks import feature_ranks
from shapeshift.prune.hrank import hrank
from shapeshift.prune.rates import rate_for
from shapeshift.prune.report import LayerReport, PruningReport, report

__all__ = ["LayerReport", "PruningReport", "feature_ranks", "hrank", "rate_for", "report"]
