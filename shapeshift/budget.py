"""Parameter budgets: counting parameters, and reading a budget."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from numbers import Integral, Real

from torch import nn

from shapeshift.errors import BudgetError

#: A number of parameters, a fraction of the model's own, or a string of either.
Budget = int | float | str

_UNITS = {"": Fraction(1), "k": Fraction(10**3), "m": Fraction(10**6), "b": Fraction(10**9), "g": Fraction(10**9)}
_NUMBER = r"(?:[0-9]+(?:_[0-9]+)*\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?"
_PATTERN = re.compile(rf"\s*({_NUMBER})\s*([kmbg%x]?)\s*", re.IGNORECASE)
_BYTES = re.compile(rf"\s*({_NUMBER})\s*(?:([kmgt])(i?)b|bytes)\s*", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_FORMS = 'a number of parameters (300000, "300k", "1.5M") or a share of the model\'s own (0.25, "25%", "4x")'


def count_parameters(model: nn.Module) -> int:
    """Count the trainable parameters of a model.

    Args:
        model: The model, plain or compressed.

    Returns:
        The number of entries of all trainable parameters. A tensor that is used several times counts once.

    Example:
        >>> import shapeshift, torch
        >>> shapeshift.count_parameters(torch.nn.Linear(10, 3))
        33
    """
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def parse_budget(budget: Budget, dense: int) -> int:
    """Turn a budget into a number of parameters.

    Args:
        budget: An int is a number of parameters, and a float a fraction of ``dense``. A string is either: "300k",
            "1.5M", "25%", "4x". A string without a unit is read as in Python: "300000" or "0.25".
        dense: The number of trainable parameters of the plain model.

    Returns:
        The largest allowed number of parameters, rounded down.

    Raises:
        BudgetError: If the budget has another form, or is not finite or not positive.
    """
    number: int | float
    if isinstance(budget, str):
        match = _PATTERN.fullmatch(budget)
        if match is None and _BYTES.fullmatch(budget):
            raise BudgetError(
                f"the budget {budget!r} is in bytes, which only shapeshift.compress and plan_compression take; "
                f"here give {_FORMS}"
            )
        if match is None:
            raise BudgetError(f"cannot read the budget {budget!r}; give {_FORMS}")
        number, unit = float(match[1]), match[2].lower()
        if not unit and not match[1].replace("_", "").isdigit():
            unit = "x"
        scale = {"%": Fraction(dense, 100), "x": Fraction(dense), **_UNITS}[unit]
    elif isinstance(budget, bool) or not isinstance(budget, Real):
        raise BudgetError(f"cannot read a budget of type {type(budget).__name__}; give {_FORMS}")
    elif isinstance(budget, Integral):
        number, scale = int(budget), Fraction(1)
    else:
        number, scale = float(budget), Fraction(dense)
    # A float stands for the decimal that it prints as: 0.07 of 100 is 7. In float arithmetic it is slightly more.
    size = int(Fraction(str(number)) * scale) if isinstance(number, int) or math.isfinite(number) else 0
    if size < 1:
        raise BudgetError(f"the budget {budget!r} does not come to a number of parameters; give {_FORMS}")
    return size


def bytes_of_budget(budget: Budget) -> int | None:
    """Read a budget in bytes.

    Args:
        budget: A string such as "500kB", "16MB", "1MiB" or "300000 bytes", in upper or lower case. A unit of one letter
            counts parameters.

    Returns:
        The most bytes, rounded down; None if the budget counts parameters.

    Raises:
        BudgetError: If it comes to no byte.
    """
    match = _BYTES.fullmatch(budget) if isinstance(budget, str) else None
    if match is None:
        return None
    size = int(Fraction(match[1]) * (1024 if match[3] else 1000) ** _POWERS[(match[2] or "").lower()])
    if size < 1:
        raise BudgetError(f"the budget {budget!r} does not come to a number of bytes")
    return size
