"""Fitting the shared parameters of one group to given weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from shapeshift.fitting.error_maps import ErrorMap, plain, relative
from shapeshift.fitting.least_squares import EXACT, LeastSquares
from shapeshift.fitting.scaling import finish_fit, linear_parts, start_fit
from shapeshift.generators.mixed import MixedGenerator
from shapeshift.store_format import STORE_FORMATS

# The most rounds of alternating least squares, and the most steps of conjugate gradients for a part in a round.
_ROUNDS = 50
_STEPS = 100

# A round or a step is the last one if it lowers the squared error by a smaller fraction than this.
_ROUND_TOLERANCE = 1e-3
_STEP_TOLERANCE = 1e-4

# A squared error that changes no output.
_NEGLIGIBLE = 1e-10


def fit_group(
    group: MixedGenerator[Any],
    weights: Sequence[Tensor],
    error_maps: Mapping[str, ErrorMap] | None = None,
    on_round: Callable[[float], None] = lambda error: None,
) -> dict[str, float]:
    """Fit a group's parameters to given weights by alternating least squares, starting from their present values.

    The fit minimises the sum of the weights' squared relative errors. If the weights have one shape and each mixes all
    templates, the result is the truncated singular value decomposition of the stacked weights. Each entry of a ring
    becomes the mean of its readers, divided by their factors, weighted by the squares of these. Weights of zeros are
    skipped: their zero factors already make them zero.

    Args:
        group: The group, after ``reset_parameters``. It is changed in place.
        weights: The weights to approximate, in the order of ``group.weights``.
        error_maps: The error maps of weights, by name. All entries of the other weights count equally.
        on_round: A function that is called after each round with the root mean square of the relative errors.

    Returns:
        The relative error of each weight under its error map, and 0 for weights of zeros.
    """
    dtype = group.weights[0].dtype
    working = torch.promote_types(dtype, torch.float32)
    fitted = [index for index, weight in enumerate(group.weights) if weight.std > 0]
    wanted = [weights[index].detach().to(working) for index in fitted]
    names = [group.weights[index].name for index in fitted]
    even = [relative(plain, value) for value in wanted]
    scaled = even
    if error_maps:
        scaled = [relative(error_maps.get(name, plain), value) for name, value in zip(names, wanted, strict=True)]
    room = sum(parameter.numel() for parameter in group.parameters()) >= sum(value.numel() for value in wanted)
    group.to(working)
    store_format, group.store_format = group.store_format, STORE_FORMATS["float32"]  # a solution is rounded at the end
    if fitted:
        start_fit(group)
        # A group with room for all weights fits them exactly. If all entries count equally, that takes few steps; if
        # some hardly count, it takes many more.
        for goals in [even, scaled] if room and error_maps else [scaled]:
            if _alternate(group, LeastSquares(group, fitted, goals, wanted), on_round) <= _NEGLIGIBLE:
                break
        finish_fit(group)
    group.to(dtype)
    group.store_format = store_format
    errors = {weight.name: 0.0 for weight in group.weights}
    with torch.no_grad():
        for index, name, error_map, value in zip(fitted, names, scaled, wanted, strict=True):
            errors[name] = torch.linalg.vector_norm(error_map(group.generate([index])[0].to(working) - value)).item()
    return errors


def _alternate(group: MixedGenerator[Any], problem: LeastSquares, on_round: Callable[[float], None]) -> float:
    """Solve for the parts of a group's parameters in turn until a round changes nothing, and return the error."""
    parts, loss = linear_parts(group), float("inf")
    for _ in range(_ROUNDS):
        before = loss
        for part in parts:
            loss = problem.solve(part, _STEPS, _STEP_TOLERANCE)
        on_round(loss**0.5)
        if len(parts) == 1 or loss <= EXACT or before - loss < _ROUND_TOLERANCE * before:
            break
    return loss
