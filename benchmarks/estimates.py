"""What the trainings of a table will take on a GPU: memory and time, estimated before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.experiments.networks import Network, dense, soft_shared
from benchmarks.experiments.pruning import pruned
from benchmarks.markdown import markdown_table
from benchmarks.row import Row
from benchmarks.table import Table
from benchmarks.task import Task
from shapeshift.budget import count_parameters, parse_budget

TERAFLOPS = 40.0  # that a GPU is assumed to sustain in a training; fewer where layers are small
_EXAMPLES = 2  # in the pass that is counted; a batch norm needs more than one


@dataclass(frozen=True)
class Sizes:
    """The sizes of a training set, as far as a network depends on them.

    Attributes:
        examples: The number of training images.
        shape: The shape of an image.
        num_classes: The number of classes.
    """

    examples: int
    shape: tuple[int, int, int]
    num_classes: int

    @property
    def channels(self) -> int:
        """The number of channels of each image."""
        return self.shape[0]


SIZES = {
    "cifar10": Sizes(50_000, (3, 32, 32), 10),
    "cifar100": Sizes(50_000, (3, 32, 32), 100),
    "image_folder": Sizes(1_281_167, (3, 224, 224), 1000),  # of ImageNet
}


@dataclass(frozen=True)
class Estimate:
    """What a run takes.

    Attributes:
        parameters: The number of trained parameters.
        gigabytes: The memory of a GPU: 12 bytes for each trained parameter, 4 for each entry of the weights, what a
            batch's forward pass keeps, and the training set.
        hours: The time of a GPU: three times the floating-point operations of a forward pass, over all images and
            epochs, at ``TERAFLOPS``.
    """

    parameters: int
    gigabytes: float
    hours: float


@lru_cache(maxsize=64)
def _forward(network: Network, sizes: Sizes) -> tuple[int, float, float]:
    """Return the parameters of a dense network, and the operations and the kept bytes of a forward, per image."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.device("meta"):
        model = network.build(sizes).train()
        images = torch.empty(_EXAMPLES, *sizes.shape)
    own = sum(parameter.untyped_storage().nbytes() for parameter in model.parameters())
    members: Iterable[nn.Module] = getattr(model, "members", [model])
    counter = FlopCounterMode(display=False)
    with counter, saved_tensors_hooks(note, lambda tensor: tensor):
        outputs: list[Any] = [member(images) for member in members]
    del outputs
    return count_parameters(model), counter.get_total_flops() / _EXAMPLES, max(0, sum(kept.values()) - own) / _EXAMPLES


def estimate(row: Row, task: Task, sizes: Sizes, teraflops: float = TERAFLOPS) -> Estimate:
    """Estimate what a run takes, without the evaluation and what little the generation of weights takes.

    Args:
        row: The row.
        task: The task that the row is trained on.
        sizes: The sizes of the training set.
        teraflops: The operations that the GPU sustains, in 1e12 per second.
    """
    recipe = replace(task.recipe, **row.recipe)
    entries, operations, kept = _forward(row.network, sizes)
    parameters = entries
    if row.build not in (dense, soft_shared, pruned):
        parameters = parse_budget(row.budget, entries)
    passes = 3.0 * recipe.epochs
    if row.build is pruned:
        passes *= 2  # it is trained before and after
    total = passes * operations
    if row.distillation:
        total += (3 * task.recipe.epochs + recipe.epochs) * _forward(row.distillation.teacher, sizes)[1]
    number = 2 if recipe.bfloat16 else 4  # bytes of an activation
    images = 4 * sizes.examples * sizes.shape[0] * sizes.shape[1] * sizes.shape[2]
    memory = 12 * parameters + 4 * entries + kept * number / 4 * recipe.batch_size + images
    return Estimate(parameters, memory / 1e9, total * sizes.examples / teraflops / 1e12 / 3600)


def render(table: Table, task: Task, seeds: int, teraflops: float = TERAFLOPS) -> str:
    """Return the estimates of a table's rows and their sum over seeds, as Markdown."""
    found = [(row, estimate(row, task, SIZES[task.data], teraflops)) for row in table.rows]
    lines = [
        [str(row.network), row.method, row.budget, f"{each.parameters:,}", f"{each.gigabytes:.1f}", f"{each.hours:.1f}"]
        for row, each in found
    ]
    shown = markdown_table(["network", "method", "budget", "parameters", "GB", "GPU hours"], lines)
    total = seeds * sum(each.hours for _, each in found)
    return (
        f"{shown}\n\nEstimated at {teraflops:g} TFLOP/s: {total:,.0f} GPU hours for {seeds} "
        f"seed{'s' if seeds > 1 else ''} of {len(lines)} rows. A row's hours are those of one seed."
    )
