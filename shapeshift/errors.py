"""Errors: each says what is wrong, where, and what to do about it."""


class ShapeshiftError(Exception):
    """Base of every error that this library raises on purpose."""


class ConfigError(ShapeshiftError, ValueError):
    """A configuration value that cannot be used."""


class BudgetError(ShapeshiftError, ValueError):
    """A budget that cannot be read, or that no allocation can meet."""


class ModelError(ShapeshiftError, ValueError):
    """A model that cannot be compressed, or is not in the state that a call needs."""


class CheckpointError(ShapeshiftError, ValueError):
    """A checkpoint that is damaged, foreign, or made for another architecture."""


class DataError(ShapeshiftError, ValueError):
    """A data set that is missing, damaged, or not laid out as its loader expects."""


class GeneratedWeightError(ShapeshiftError, RuntimeError):
    """A write to a generated weight, which would be lost."""


class ShapeshiftWarning(UserWarning):
    """A situation in which a model may not do what its user expects, and which is no error."""


class MissingExtraError(ShapeshiftError, ImportError):
    """A feature whose optional dependency is not installed.

    Args:
        feature: The feature that was asked for.
        extra: The extra of this package that installs it.
    """

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f'{feature} needs an optional dependency: pip install "shapeshift[{extra}]"')
