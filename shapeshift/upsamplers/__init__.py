"""Parameter upsampling: how a weight is stretched from fewer numbers than it holds.

An upsampler is an :class:`~shapeshift.upsamplers.base.Upsampler`. To add one, write a file with a class decorated by
``@UPSAMPLERS.register("name")`` and import it below.
"""

from shapeshift.registry import Registry
from shapeshift.upsamplers.base import Upsampler

UPSAMPLERS: Registry[type[Upsampler]] = Registry("upsampler")

from shapeshift.upsamplers import interpolate, tile  # noqa: E402

__all__ = ["UPSAMPLERS", "Upsampler", "interpolate", "tile"]
