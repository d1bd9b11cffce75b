"""Errors: each says what is wrong, where, and what to do about it. docs/errors.md lists them all."""


class ShapeshiftError(Exception):
    """Base of every error that this library raises on purpose.

    Nothing has been changed when it is raised: a call that fails leaves the model as it was.
    """

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.add_note(f"The page docs/errors.md lists every {type(self).__name__}, with its cause and what to do.")


class ConfigError(ShapeshiftError, ValueError):
    """A configuration value that cannot be used. The message names the field and the values that it takes."""


class BudgetError(ShapeshiftError, ValueError):
    """A budget that cannot be read, or that no allocation can meet. The message names the forms, or the bound."""


class ModelError(ShapeshiftError, ValueError):
    """A model that cannot be compressed, or is not in the state that a call needs.

    The message names the layer, and the call or the argument that brings the model there.
    """


class CheckpointError(ShapeshiftError, ValueError):
    """A checkpoint that is damaged, foreign, or made for another architecture.

    The message names the file. A damaged checkpoint has to be saved again; others need the model they were made of.
    """


class DataError(ShapeshiftError, ValueError):
    """A data set that is missing, damaged, or not laid out as its loader expects.

    The message names the file or the batch, and says where the data comes from.
    """


class GeneratedWeightError(ShapeshiftError, RuntimeError):
    """A use of a generated weight as if it were a parameter: a write to it would be lost.

    Write to the shared parameters, exclude the weight when the model is compressed, or materialize the model first.
    """


class ShapeshiftWarning(UserWarning):
    """An operation on a compressed model that does something else than on a dense one; it is warned about once."""


class MissingExtraError(ShapeshiftError, ImportError):
    """A feature whose optional dependency is not installed.

    Args:
        feature: The feature that was asked for.
        extra: The extra of this package that installs it.
    """

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f'{feature} needs an optional dependency: pip install "shapeshift[{extra}]"')
