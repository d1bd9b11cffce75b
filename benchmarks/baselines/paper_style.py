"""The generator of the papers' code, a baseline of speed: every layer slices one store and mixes by itself."""

from __future__ import annotations

import torch
from torch import nn

from shapeshift.weights import find_weights


def share_in_paper_style(model: nn.Module, store_size: int, templates: int = 2) -> nn.Module:
    """Let each layer cut its templates from one flat store, one after the other, and mix them before it runs.

    Args:
        model: The model, which is changed in place.
        store_size: The number of entries in the store, at least ``templates`` times the size of the largest weight.
        templates: The number of templates that each layer mixes.

    Returns:
        The same model, with the store as its parameter ``paper_store``.

    Raises:
        ValueError: If the store is too small for the largest weight.
    """
    store = nn.Parameter(torch.randn(store_size) * 0.02)
    cursor = 0
    for weight in find_weights(model):
        path, _, name = weight.name.rpartition(".")
        module = model.get_submodule(path)
        span = templates * weight.numel
        if span > store_size:
            raise ValueError(f"{weight.name} needs {span} entries, more than the {store_size} in the store")
        if cursor + span > store_size:
            cursor = 0
        del module._parameters[name]
        coefficients = nn.Parameter(torch.full((templates,), templates**-0.5))
        module.register_parameter(f"{name}_coefficients", coefficients)

        def generate(
            module: nn.Module,
            args: object,
            name: str = name,
            shape: tuple[int, ...] = weight.shape,
            block: slice = slice(cursor, cursor + span),
            coefficients: nn.Parameter = coefficients,
        ) -> None:
            slices = store[block].view(templates, *shape)
            setattr(module, name, (coefficients.view(-1, *[1] * len(shape)) * slices).sum(0))

        module.register_forward_pre_hook(generate)
        cursor += span
    model.register_parameter("paper_store", store)
    return model
