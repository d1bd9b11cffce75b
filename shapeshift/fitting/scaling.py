"""The parts of a group's parameters that a fit solves for in turn, and their scales before and after it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from shapeshift.generators.mixed import MixedGenerator
from shapeshift.generators.mixing.layout import exact_size
from shapeshift.generators.template_generator import TemplateGenerator
from shapeshift.generators.wavg import WeightedAverage


def linear_parts(group: MixedGenerator[Any]) -> list[list[nn.Parameter]]:
    """Return the parameters in parts; the weights are linear in each part while the others are constant.

    A fit solves for the parts in turn, in this order. The factors of weights that start at zero are in none.
    """
    named = list(group.named_parameters())
    parts = [
        [parameter for name, parameter in named if name == part or name.startswith(f"{part}.")]
        for part in ("store", *group.linear_in, "upsamplers")
    ]
    return [part for part in parts if part]


@torch.no_grad()
def start_fit(group: MixedGenerator[Any]) -> None:
    """Let the first of several templates outweigh the others where each weight has entries of its own.

    Overlapping templates of equal weight cancel in many ways, and a fit then takes many steps to be exact.
    """
    if not isinstance(group, TemplateGenerator) or group.layout.store_size < exact_size(group.weights):
        return
    coefficients = group.all_coefficients()
    for combination in group.layout.combinations:
        if combination.count > 1:
            shares = group.gains.new_full((combination.count,), 0.5 / (combination.count - 1))
            shares[0] = 1
            row = combination.row
            length = (group.gains[row] * coefficients[row]).norm()
            group.gains[row] = shares * (length / shares.norm()) / coefficients[row].abs()


@torch.no_grad()
def finish_fit(group: MixedGenerator[Any]) -> None:
    """Scale parameters so that a gradient step on them moves no weight further than one on the weight itself would.

    Larger steps than those of the original's own fine-tuning would undo the fit. The gains take the scales back.
    """
    scales = group.scales()
    fitted = [index for index, weight in enumerate(group.weights) if weight.std > 0]
    longest = max(scales[row].norm() for index in fitted for row in group.gains_of(index))
    for piece in group.store:
        piece *= longest
    group.gains /= longest
    if isinstance(group, WeightedAverage):
        _scale_coefficients(group)


def _scale_coefficients(group: WeightedAverage) -> None:
    """Scale the coefficients of each weight by the length of its templates."""
    if group.coefficients is None:
        return
    store = torch.cat(list(group.store)).flatten()
    for weight, combination in zip(group.weights, group.layout.combinations, strict=True):
        if combination.count > 1:
            repeats, row = weight.numel / combination.size, combination.row
            templates = torch.cat([store[template] for template in combination.template_slices])
            length = math.sqrt(repeats) * templates.norm()
            if length > 0:
                group.coefficients[row] *= group.gains[row] * length
                group.gains[row] = 1 / length
