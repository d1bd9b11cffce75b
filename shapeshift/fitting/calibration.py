"""Calibration: measuring on data how errors of weights change the outputs of layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shapeshift.errors import DataError, ModelError
from shapeshift.fitting.error_maps import ErrorMap, both
from shapeshift.fitting.moments import Moment, moment_of
from shapeshift.running.batches import Batches, device_of, read_batch
from shapeshift.running.modes import evaluating
from shapeshift.weights import Weight


@torch.no_grad()
def calibrate(model: nn.Module, weights: Sequence[Weight], loader: Iterable[Any]) -> dict[str, ErrorMap]:
    r"""Measure the second moments of layers' inputs, and weight the errors of their weights by them.

    The mean squared error of the outputs of a linear layer is :math:`\mathrm{tr}(D S D^\top)` for an error D of its
    weight and the second moment S of its inputs. Whitening by a factor of S is how SVD-LLM (Wang et al., ICLR 2025,
    section 3.1) and Basis Sharing (Wang et al., ICLR 2025, section 3.2) make truncation aware of data.

    Args:
        model: A plain model. It runs in evaluation mode, without gradients, and is left as it was.
        weights: The weights to measure. Those of linear layers, convolutions and embeddings have a moment. For all
            others, and for layers that did not run as modules, all entries count equally.
        loader: Batches ``x``, ``(x, y)`` or dicts of the model's arguments.

    Returns:
        The error map of each weight that has one, by the weight's name.

    Raises:
        DataError: If the loader is empty, or yields no tensors.
        ModelError: If a layer read values that are not finite.
    """
    moments: dict[str, Moment] = {}
    handles = []
    batches, device = Batches(loader), device_of(model)
    ran: set[str] = set()

    def watch(name: str, layer: nn.Module, moment: Moment) -> None:
        # After the layer has run, so that an input that it cannot read raises the layer's own error.
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
            inputs = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
            if not inputs.isfinite().all():
                raise ModelError(f"{name} read values that are not finite in the calibration data")
            moment.add(inputs)
            ran.add(name)

        handles.append(layer.register_forward_hook(hook, with_kwargs=True))

    try:
        for name in (name for weight in weights for name in weight.names):
            path, _, parameter = name.rpartition(".")
            layer = model.get_submodule(path)
            moment = moment_of(layer) if parameter == "weight" else None
            if moment is not None:
                moments[name] = moment
                watch(name, layer, moment)
        with evaluating(model):
            for batch in batches:
                read_batch(batch, device).run(model)
    finally:
        for handle in handles:
            handle.remove()
    if not ran and moments:
        raise DataError("no layer ran on the calibration data: it has to hold inputs of the model")
    return {
        weight.name: both([moments[name].error_map() for name in weight.names if name in ran])
        for weight in weights
        if any(name in ran for name in weight.names)
    }
