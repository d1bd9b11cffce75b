"""Soft parameter sharing: layers that mix the same templates, their similarity, and the loops that it allows."""

from shapeshift.recurrence.fold import Folding, fold
from shapeshift.recurrence.schedule import Schedule
from shapeshift.recurrence.similarity import layer_similarity, regulariser, similarity
from shapeshift.recurrence.similarity_plot import SimilarityRecorder, plot_similarity
from shapeshift.recurrence.soft_share import soft_share
from shapeshift.recurrence.ties import Ties

__all__ = [
    "Folding",
    "Schedule",
    "SimilarityRecorder",
    "Ties",
    "fold",
    "layer_similarity",
    "plot_similarity",
    "regulariser",
    "similarity",
    "soft_share",
]
