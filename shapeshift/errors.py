"""What can go wrong, by name: each error says what, where, and what to do about it."""


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
    """A write to a weight that is generated, and would therefore be lost."""


class MissingExtraError(ShapeshiftError, ImportError):
    """A feature whose optional dependency is not installed.

    Args:
        feature: what was asked for.
        extra: the extra of this package that brings it.
    """

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f'{feature} needs an optional dependency: pip install "shapeshift[{extra}]"')
