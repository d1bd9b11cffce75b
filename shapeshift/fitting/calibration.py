"""Calibration: measuring on data how errors of weights change the outputs of layers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from shapeshift.errors import DataError, ModelError, ShapeshiftWarning
from shapeshift.fitting.error_maps import ErrorMap, both
from shapeshift.fitting.moments import Moment, moment_of
from shapeshift.running.batches import Batches, Inputs, device_of, read_batch
from shapeshift.running.modes import evaluating, unfused
from shapeshift.running.padding import find_masks, may_be_time_first, named_tensors, split_samples
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
        loader: Batches ``x``, ``(x, y)`` or dicts of the model's arguments. Padding does not count where a mask in the
            batch shows it: an ``attention_mask``, or an argument whose name ends in ``key_padding_mask``; where there
            is none, labels of -100 at the end of a sample.

    Warns:
        ShapeshiftWarning: If the model cannot run on padded data without the padding, which then counts.

    Returns:
        The error map of each weight that has one, by the weight's name.

    Raises:
        DataError: If the loader is empty, or yields no tensors.
        ModelError: If a layer read values that are not finite.
    """
    moments: dict[str, Moment] = {}
    for name in (name for weight in weights for name in weight.names):
        path, _, parameter = name.rpartition(".")
        moment = moment_of(model.get_submodule(path)) if parameter == "weight" else None
        if moment is not None:
            moments[name] = moment
    batches, device = Batches(loader), device_of(model)
    ran: set[str] = set()
    with evaluating(model), unfused():
        for inputs in _without_padding(model, batches, device):
            with _adding(model, moments, ran):
                inputs.run(model)
    if not ran and moments:
        raise DataError("no layer ran on the calibration data: it has to hold inputs of the model")
    return {
        weight.name: both([moments[name].error_map() for name in weight.names if name in ran])
        for weight in weights
        if any(name in ran for name in weight.names)
    }


@contextmanager
def _adding(model: nn.Module, moments: Mapping[str, Moment], ran: set[str]) -> Iterator[None]:
    """Add what the layers read to their moments, and the names of their weights to those that ran."""

    def hook_of(name: str) -> Callable[..., None]:
        # After the layer has run, so that an input that it cannot read raises the layer's own error.
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
            inputs = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
            if not inputs.isfinite().all():
                raise ModelError(f"{name} read values that are not finite in the calibration data")
            moments[name].add(inputs)
            ran.add(name)

        return hook

    handles = [
        model.get_submodule(name.rpartition(".")[0]).register_forward_hook(hook_of(name), with_kwargs=True)
        for name in moments
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _without_padding(model: nn.Module, batches: Iterable[Any], device: torch.device) -> Iterator[Inputs]:
    """Yield the arguments of the passes over batches: each sample of a batch with padding runs alone, without it.

    Every layer then reads what it reads without padding, in whatever form the model brings the positions to it.
    """
    time_first, has_warned = may_be_time_first(model), False
    for batch in batches:
        inputs = read_batch(batch, device)
        masks = find_masks(batch, inputs)
        if all(mask.all() for mask in masks.values()):
            yield inputs
            continue
        try:
            samples = split_samples(inputs, masks, time_first)
            for shortest in sorted(samples, key=_numel)[:1]:
                shortest.run(model)  # where a length is too short for a model, it is this one
        except Exception as error:
            if not has_warned:
                warnings.warn(
                    f"the calibration data is padded, and {type(model).__name__} cannot run on it without the padding "
                    f"({type(error).__name__}: {error}), so the padded positions count in the fit. Give batches "
                    "without padding, such as one sentence each, to leave them out",
                    ShapeshiftWarning,
                    stacklevel=2,
                )
            samples, has_warned = [inputs], True
        yield from samples


def _numel(inputs: Inputs) -> int:
    return sum(tensor.numel() for tensor in named_tensors(inputs).values())
