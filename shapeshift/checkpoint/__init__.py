"""Checkpoints: all state of a compressed or pruned model, and what gives it meaning, a plan or a record."""

from shapeshift.checkpoint.loading import load
from shapeshift.checkpoint.saving import save

__all__ = ["load", "save"]
