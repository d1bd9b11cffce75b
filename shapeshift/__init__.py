"""shapeshift: neural networks whose weights are generated from shared parameters, within a parameter budget."""

from shapeshift.budget import count_parameters
from shapeshift.compression import compress, is_compressed, materialize
from shapeshift.config import Config
from shapeshift.errors import (
    BudgetError,
    CheckpointError,
    ConfigError,
    GeneratedWeightError,
    ModelError,
    ShapeshiftError,
)

__version__ = "0.1.0"
