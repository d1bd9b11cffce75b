"""Counting multiply-accumulates."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from shapeshift.batches import Inputs, device_of
from shapeshift.modes import evaluating


def count_macs(model: nn.Module, inputs: Inputs) -> int:
    """Count the multiply-accumulates of one forward pass: of convolutions, matrix products and attention.

    Norms, activations, poolings and sums are not counted. Half the operations that
    :class:`torch.utils.flop_counter.FlopCounterMode` counts.

    Args:
        model: it runs in evaluation mode, without gradients; on the meta device nothing is computed.
        inputs: its arguments.
    """
    counter = FlopCounterMode(display=False)
    with evaluating(model), torch.no_grad(), counter:
        inputs.run(model)
    return int(counter.get_total_flops()) // 2


def describe_inputs(inputs: Inputs) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return shape and dtype of each tensor among the arguments, by name, or by position as digits."""
    named = {str(position): value for position, value in enumerate(inputs.args)} | inputs.kwargs
    return {
        name: (tuple(value.shape), str(value.dtype).removeprefix("torch."))
        for name, value in named.items()
        if isinstance(value, Tensor)
    }


def blank_inputs(description: Mapping[str, tuple[tuple[int, ...], str]], model: nn.Module) -> Inputs:
    """Make arguments of zeros from a description, on a model's device."""
    device = device_of(model)
    zeros = {
        name: torch.zeros(shape, dtype=getattr(torch, dtype), device=device)
        for name, (shape, dtype) in description.items()
    }
    args = [name for name in zeros if name.isdigit()]
    return Inputs(tuple(zeros[name] for name in args), {name: x for name, x in zeros.items() if name not in args})
