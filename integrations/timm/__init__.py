"""Models of timm: every name in a compressed form behind ``shapeshift_``, and the networks for small images by name.

Importing this registers both with timm.
"""

from shapeshift.integrations.timm.compressed import PREFIX, build, build_compressed, model_names, register_models
from shapeshift.integrations.timm.networks import register_networks

__all__ = ["PREFIX", "build", "build_compressed", "model_names", "register_models", "register_networks"]

register_networks()
register_models()
