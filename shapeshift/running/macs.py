"""Multiply-accumulates of a forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from shapeshift.running.batches import Inputs, device_of
from shapeshift.running.modes import evaluating, unfused


def count_macs(model: nn.Module, inputs: Inputs) -> int:
    """Count the multiply-accumulates of one forward pass: of convolutions, matrix products and attention.

    Norms, activations, poolings, sums and the steps of recurrent layers are not counted. The count is half that of
    :class:`torch.utils.flop_counter.FlopCounterMode`, which counts multiplications and additions.

    Args:
        model: The model. It runs in evaluation mode, without gradients; on the meta device nothing is computed.
        inputs: The arguments of the model.
    """
    counter = FlopCounterMode(display=False)
    with evaluating(model), torch.no_grad(), _countable(model), counter:
        inputs.run(model)
    return int(counter.get_total_flops()) // 2


@contextmanager
def _countable(model: nn.Module) -> Iterator[None]:
    """Switch off what the counter cannot handle.

    It does not see the fused kernels of torch's own transformer layers, and it fails on gradients of parameters that
    are passed to a submodule as arguments.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    try:
        with unfused():
            yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def describe_inputs(inputs: Inputs) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the shape and dtype of each tensor among the arguments, by name, or by position as digits."""
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
