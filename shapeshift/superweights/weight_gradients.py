"""The gradients with respect to each layer's own weight, and their similarity between layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from shapeshift.compression import materialize
from shapeshift.errors import DataError, ModelError
from shapeshift.running.batches import Batches, read_batch
from shapeshift.running.labels import cross_entropy
from shapeshift.running.modes import evaluating
from shapeshift.surgery.roots import require_root, require_shared

SAMPLES = 1000

Loss = Callable[[nn.Module, Any], Tensor]
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WeightGradients:
    """The mean gradients of a loss with respect to each generated weight.

    Attributes:
        mean: The gradient of each weight by the weight's name.
        halves: The same over the first, third, fifth batch and so on, and over the others. The difference between the
            halves shows the noise of a similarity. The second half is empty if there was one batch.
        samples: The number of samples.
    """

    mean: Mapping[str, Tensor]
    halves: tuple[Mapping[str, Tensor], Mapping[str, Tensor]]
    samples: int


def weight_gradients(
    model: nn.Module, data: Iterable[Any], loss: Loss = cross_entropy, samples: int = SAMPLES
) -> WeightGradients:
    """Measure the gradient of the loss with respect to each layer's own weight (Teterwak et al. 2024).

    The gradients are those of a plain copy in evaluation mode, whose weights share no parameters. They show the
    directions in which layers would change the parameters that they share.

    Args:
        model: A compressed model. It is not changed.
        data: Batches that the gradients are measured on. Reading ends after ``samples`` samples.
        loss: A function of the model and a batch that returns the mean loss of the samples. The default is the
            cross-entropy of a batch ``(x, y)`` or of a dict with "labels", summed over the members of a family.
        samples: The least number of samples.

    Raises:
        DataError: If the data holds fewer samples.
        ModelError: If a gradient is not finite, or the loss does not depend on a weight.
    """
    names = [weight.name for group in require_shared(model).generators() for weight in group.weights]
    plain = materialize(copy.deepcopy(require_root(model)))
    parameters = dict(plain.named_parameters(remove_duplicate=False))
    weights = [parameters[name].requires_grad_() for name in names]
    sums: list[list[Tensor]] = [[], []]
    counts = [0, 0]
    with evaluating(plain), torch.enable_grad():
        for number, batch in enumerate(Batches(data)):
            size = _batch_size(batch)
            found = torch.autograd.grad(loss(plain, batch) * size, weights, allow_unused=True)
            for name, grad in zip(names, found, strict=True):
                if grad is None or not grad.isfinite().all():
                    state = "does not depend on" if grad is None else "has a gradient that is not finite for"
                    raise ModelError(f"the loss {state} {name}; leave it out with exclude=, or repair the loss")
            half = number % 2
            sums[half] = [a + b for a, b in zip(sums[half], found, strict=True)] if sums[half] else list(found)
            counts[half] += size
            if sum(counts) >= samples:
                break
    if sum(counts) < samples:
        raise DataError(
            f"the loader holds {sum(counts):,} samples, and gradients are to be taken over at least {samples:,}; "
            "give more data, or a smaller samples="
        )
    total = [a + b for a, b in zip(*sums, strict=True)] if sums[1] else sums[0]
    first, second = (
        {name: grad / count for name, grad in zip(names, half, strict=False)}
        for half, count in zip(sums, counts, strict=True)
    )
    mean = {name: grad / sum(counts) for name, grad in zip(names, total, strict=True)}
    return WeightGradients(mean, (first, second), sum(counts))


def gradient_similarity(gradients: Mapping[str, Tensor], names: Sequence[str]) -> Matrix:
    """Return the cosines between layers' gradients, on the block of rows and columns that both weights have.

    Args:
        gradients: The gradient of each weight by the weight's name.
        names: The names of the weights to compare.

    Returns:
        A symmetric matrix. It is NaN where two kernels differ in size, and 0 where a gradient is 0.
    """
    found = np.full((len(names), len(names)), np.nan)
    for row, one in enumerate(names):
        for column, other in enumerate(names[: row + 1]):
            first, second = gradients[one], gradients[other]
            if first.shape[2:] == second.shape[2:]:
                rows, columns = (min(first.shape[axis], second.shape[axis]) for axis in (0, 1))
                value = cosine(first[:rows, :columns], second[:rows, :columns])
                found[row, column] = found[column, row] = value
    return found


def cosine(first: Tensor, second: Tensor) -> float:
    """Return the cosine between two tensors of one shape as vectors, or 0 if one of them is 0."""
    one, other = first.reshape(-1).double(), second.reshape(-1).double()
    lengths = (one.norm() * other.norm()).item()
    return torch.dot(one, other).item() / lengths if lengths > 0 else 0.0


def _batch_size(batch: Any) -> int:
    inputs = read_batch(batch, torch.device("cpu"))
    tensors = [*inputs.args, *inputs.kwargs.values()]
    return next(len(tensor) for tensor in tensors if isinstance(tensor, Tensor))
