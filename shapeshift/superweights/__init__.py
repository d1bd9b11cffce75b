"""Families of networks on one set of SuperWeights: ensembles and anytime predictions."""

from shapeshift.superweights.coefficients import share_coefficients, unshare_coefficients
from shapeshift.superweights.evaluation import Evaluation, Scores, evaluate
from shapeshift.superweights.family import Family
from shapeshift.superweights.metrics import accuracy, disagreement, ece, nll

__all__ = [
    "Evaluation",
    "Family",
    "Scores",
    "accuracy",
    "disagreement",
    "ece",
    "evaluate",
    "nll",
    "share_coefficients",
    "unshare_coefficients",
]
