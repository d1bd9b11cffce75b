"""Fitting shared parameters to the weights of a trained model: ``Config(init="fit")``."""

from shapeshift.fitting.alternating import fit_group
from shapeshift.fitting.calibration import calibrate
from shapeshift.fitting.model import fit_to_model

__all__ = ["calibrate", "fit_group", "fit_to_model"]
