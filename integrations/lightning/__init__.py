"""Callbacks of Lightning: compressing a module before training, and logging how its shared parameters train."""

from shapeshift.integrations.lightning.callback import ShapeshiftCallback, share_as_saved
from shapeshift.integrations.lightning.logging import LogSharing

__all__ = ["LogSharing", "ShapeshiftCallback", "share_as_saved"]
