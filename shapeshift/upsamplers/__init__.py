"""Parameter upsampling: stretching a weight from a source with fewer entries.

An upsampler is an :class:`~shapeshift.upsamplers.base.Upsampler`. To add one, write a file with a class decorated by
``@UPSAMPLERS.register("name")`` and import it below.
"""

from shapeshift.upsamplers import inter, interpolate, mask, repeat, tile, weighted
from shapeshift.upsamplers.base import UPSAMPLERS, Upsampler

__all__ = ["UPSAMPLERS", "Upsampler", "inter", "interpolate", "mask", "repeat", "tile", "weighted"]
