"""Reading a parameter budget."""

from __future__ import annotations

import math
import re
from numbers import Integral, Real

from torch import nn

from shapeshift.errors import BudgetError

Budget = int | float | str

_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9}
_PATTERN = re.compile(r"\s*([0-9][0-9_]*\.?[0-9]*(?:e[+-]?[0-9]+)?)\s*([kmbg%x]?)\s*", re.IGNORECASE)
_FORMS = 'a number of parameters (300000, "300k", "1.5M") or a share of the model\'s own (0.25, "25%", "4x")'


def count_parameters(model: nn.Module) -> int:
    """Count the trainable numbers of a model, each tensor once however often it is used."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def parse_budget(budget: Budget, dense: int) -> int:
    """Turn a budget into a number of parameters.

    Args:
        budget: an int is a number of parameters, a float a fraction of ``dense``, and a string either:
            "300k", "1.5M", "25%", "4x".
        dense: the model's own number of trainable parameters.

    Returns:
        The number of parameters that may be used, rounded down.

    Raises:
        BudgetError: if the budget is not of these forms, not finite, or not positive.
    """
    if isinstance(budget, str):
        match = _PATTERN.fullmatch(budget)
        if match is None:
            raise BudgetError(f"cannot read the budget {budget!r}; give {_FORMS}")
        number, unit = float(match[1]), match[2].lower()
        scale = {"%": dense / 100, "x": float(dense)}.get(unit) or _UNITS[unit]
    elif isinstance(budget, bool) or not isinstance(budget, Real):
        raise BudgetError(f"cannot read a budget of type {type(budget).__name__}; give {_FORMS}")
    elif isinstance(budget, Integral):
        number, scale = int(budget), 1
    else:
        number, scale = float(budget), float(dense)
    # The small allowance keeps "7%" of 100 at 7, which float arithmetic puts a hair below.
    size = number * scale * (1 + 1e-12) if isinstance(scale, float) else number
    if not math.isfinite(size) or size < 1:
        raise BudgetError(f"the budget {budget!r} comes to {size:g} parameters; give {_FORMS}, at least one parameter")
    return int(size)
