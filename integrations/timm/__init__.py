"""Importing this registers models with timm: ``shapeshift_NAME`` for every NAME, and the networks for small images.

``timm.create_model("shapeshift_resnet50", budget="25%")`` builds a compressed model, and
``timm.create_model("wrn_28_10")`` a network for images of 32 pixels.
"""

from shapeshift.integrations.timm.compressed import PREFIX, build, build_compressed, model_names, register_models
from shapeshift.integrations.timm.networks import register_networks

__all__ = ["PREFIX", "build", "build_compressed", "model_names", "register_models", "register_networks"]

register_networks()
register_models()
