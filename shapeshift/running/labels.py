"""Labelled batches, and the predictions and losses of classifiers on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift.errors import DataError, ModelError
from shapeshift.running.batches import Batches, Inputs, device_of, read_batch
from shapeshift.running.modes import evaluating

IGNORED = -100  # the label of positions that do not count, as in torch.nn.functional.cross_entropy


def read_labelled(batch: Any, device: torch.device) -> tuple[Inputs, Tensor]:
    """Read the model's arguments and the labels in a batch that a loader yields.

    Args:
        batch: The batch: ``(x, y)``, or a dict of keyword arguments with the labels as "labels" or "label". Labels are
            classes, of shape (N,).
        device: The device that its tensors are moved to.

    Raises:
        DataError: If the batch holds no labels.
    """
    labels: Any = None
    if isinstance(batch, Mapping):
        labels = next((batch[name] for name in ("labels", "label") if name in batch), None)
    elif isinstance(batch, Sequence) and len(batch) >= 2:
        labels = batch[1]
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dim() != 1:
        found = f"a {tuple(labels.shape)} tensor of {labels.dtype}" if isinstance(labels, Tensor) else "none"
        raise DataError(
            f"the loader has to yield (x, y), or a dict with 'labels': one integer class per sample; "
            f"found {found} in a {type(batch).__name__}"
        )
    return read_batch(batch, device), labels.to(device)


def logits_of(output: Any) -> Tensor:
    """Return the logits, of shape (N, classes), in a classifier's output.

    Raises:
        ModelError: If the output holds none.
    """
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(f"a member has to return logits of shape (N, classes), or an object with .logits, not {found}")
    return logits


def probabilities_of(output: Any) -> Tensor:
    """Return the probabilities, of shape (N, classes), that a classifier's output stands for, in float32 at least."""
    logits = logits_of(output)
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)


def members_probabilities(outputs: Iterable[Any]) -> Tensor:
    """Return the probabilities, of shape (members, N, classes), that the outputs of a family's members stand for.

    Raises:
        ModelError: If an output holds no logits, or the members predict different numbers of classes.
    """
    found = [probabilities_of(output) for output in outputs]
    classes = [probabilities.shape[1] for probabilities in found]
    if len(set(classes)) > 1:
        raise ModelError(
            f"the members predict different numbers of classes, {classes}; an ensemble needs the same classes from all"
        )
    return torch.stack(found)


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """Return the mean cross-entropy of a classifier on a batch; for a family, the sum over its members.

    Args:
        model: The classifier, which returns logits, or the family, which returns a list of them.
        batch: A batch that :func:`read_labelled` reads.
    """
    inputs, labels = read_labelled(batch, device_of(model))
    outputs = inputs.run(model)
    each = outputs if isinstance(outputs, list) else [outputs]
    return torch.stack([F.cross_entropy(logits_of(output).float(), labels) for output in each]).sum()


@torch.no_grad()
def predict_all(model: nn.Module, data: Iterable[Any]) -> tuple[Tensor, Tensor]:
    """Run a family in evaluation mode over labelled data.

    Args:
        model: The family, which returns a list of outputs, one per member.
        data: Batches that :func:`read_labelled` reads.

    Returns:
        The probabilities, of shape (members, N, classes), and the labels, of shape (N,).

    Raises:
        DataError: If the data is empty, or has no labels.
        ModelError: If a member returns no logits.
    """
    found, labels, device = [], [], device_of(model)
    with evaluating(model):
        for batch in Batches(data):
            inputs, classes = read_labelled(batch, device)
            found.append(members_probabilities(inputs.run(model)))
            labels.append(classes)
    return torch.cat(found, 1), torch.cat(labels)
