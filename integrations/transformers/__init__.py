"""Importing this lets ``save_pretrained`` and ``from_pretrained`` of transformers save and load compressed models.

``save_pretrained`` writes a recipe into ``config.json``. ``from_pretrained`` compresses the model by the recipe before
it loads the shared parameters. Models that are not compressed are saved and loaded as before. ``loading`` and
``saving`` say what an import changes in transformers.
"""

from shapeshift.integrations.transformers.building import build, build_from_file, model_names
from shapeshift.integrations.transformers.loading import ShapeshiftQuantizer
from shapeshift.integrations.transformers.logging import log_sharing
from shapeshift.integrations.transformers.recipe import ShapeshiftConfig
from shapeshift.integrations.transformers.saving import save_pretrained

__all__ = [
    "ShapeshiftConfig",
    "ShapeshiftQuantizer",
    "build",
    "build_from_file",
    "log_sharing",
    "model_names",
    "save_pretrained",
]
