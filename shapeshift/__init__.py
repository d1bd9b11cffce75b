"""shapeshift: neural networks whose weights are generated from shared parameters, within a parameter budget."""

from shapeshift import distill, prune, recurrence, superweights
from shapeshift.budget import count_parameters
from shapeshift.checkpoint import load, save
from shapeshift.compression import build, compress, materialize, plan_compression
from shapeshift.config import Config
from shapeshift.errors import (
    BudgetError,
    CheckpointError,
    ConfigError,
    DataError,
    GeneratedWeightError,
    MissingExtraError,
    ModelError,
    ShapeshiftError,
    ShapeshiftWarning,
)
from shapeshift.mapping_search import GradientMapping, LearnedMapping, learn_mapping, learn_mapping_by_gradients
from shapeshift.mappings import Assignment
from shapeshift.metrics import metrics
from shapeshift.muon import Muon
from shapeshift.optimizer import parameter_groups
from shapeshift.plot import plot_mapping
from shapeshift.recompute import set_recompute
from shapeshift.report import Report, report
from shapeshift.surgery.roots import is_compressed
from shapeshift.version import __version__

__all__ = [
    "Assignment",
    "BudgetError",
    "CheckpointError",
    "Config",
    "ConfigError",
    "DataError",
    "GeneratedWeightError",
    "GradientMapping",
    "LearnedMapping",
    "MissingExtraError",
    "ModelError",
    "Muon",
    "Report",
    "ShapeshiftError",
    "ShapeshiftWarning",
    "__version__",
    "build",
    "compress",
    "count_parameters",
    "distill",
    "is_compressed",
    "learn_mapping",
    "learn_mapping_by_gradients",
    "load",
    "materialize",
    "metrics",
    "parameter_groups",
    "plan_compression",
    "plot_mapping",
    "prune",
    "recurrence",
    "report",
    "save",
    "set_recompute",
    "superweights",
]
