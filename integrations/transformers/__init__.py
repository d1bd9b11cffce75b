"""Models of transformers: built by type or from a configuration, and saved and loaded in transformers' own ways.

Once this is imported, ``save_pretrained`` of a compressed model writes the recipe into ``config.json``, and
``from_pretrained`` compresses the model by it before it loads what the recipe leaves of the weights.
"""

from shapeshift.integrations.transformers.building import build, build_from_file, model_names
from shapeshift.integrations.transformers.loading import ShapeshiftQuantizer
from shapeshift.integrations.transformers.recipe import ShapeshiftConfig
from shapeshift.integrations.transformers.saving import save_pretrained

__all__ = [
    "ShapeshiftConfig",
    "ShapeshiftQuantizer",
    "build",
    "build_from_file",
    "model_names",
    "save_pretrained",
]
