"""A trained adapter of a language model, made smaller."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

import shapeshift
from benchmarks.experiments.adapters import ALL, RANK, Adapters, adapted, compressed_lora
from benchmarks.experiments.base import Experiment, Metric
from benchmarks.experiments.golf import Llama, bits_per_byte, load, train
from benchmarks.experiments.networks import Training
from benchmarks.row import Row
from benchmarks.task import Task
from shapeshift.budget import parse_budget

CALIBRATION = 64  # windows of the training text


def whole(network: Llama, budget: str, training: Training) -> nn.Module:
    """Train LoRA on every matrix, and return it as it is. Afterwards, torch is seeded with the training's seed."""
    model = copy.deepcopy(_trained(network, training))
    torch.manual_seed(training.seed)
    return model


def fitted(network: Llama, budget: str, training: Training, calibrate: bool = False, **options: Any) -> nn.Module:
    """Fit shared parameters to the trained adapter.

    Args:
        network: The network of the base model.
        budget: The share of the adapter's parameters.
        training: The training of the adapter.
        calibrate: Whether the error of the outputs of layers on part of the training text is minimised, in place of
            that of the matrices.
        **options: Fields of :class:`shapeshift.Config`.
    """
    model = whole(network, budget, training)
    batches = _windows(training).split(8) if calibrate else None
    return shapeshift.compress(model, budget, init="fit", calibration=batches, **options)


@torch.no_grad()
def truncated(network: Llama, budget: str, training: Training) -> nn.Module:
    """Keep the singular values of the adapter's updates that are the largest for their number of parameters."""
    model = whole(network, budget, training)
    left = parse_budget(budget, shapeshift.count_parameters(model))
    updates = _updates(model)
    parts = {name: torch.linalg.svd(update, full_matrices=False) for name, update in updates.items()}
    kept = {name: torch.zeros(RANK) for name in parts}
    gains = [
        (parts[name].S[k] ** 2 / sum(update.shape), name, k) for name, update in updates.items() for k in range(RANK)
    ]
    for _, name, k in sorted(gains, reverse=True):
        if sum(updates[name].shape) <= left:
            kept[name][k] = 1
            left -= sum(updates[name].shape)
    for name, (u, s, vh) in parts.items():
        layer: Any = model.get_submodule(name)
        root = (s[:RANK] * kept[name]).sqrt()
        layer.lora_B["default"].weight.copy_(u[:, :RANK] * root)
        layer.lora_A["default"].weight.copy_(root[:, None] * vh[:RANK])
    return model


@torch.no_grad()
def cut(network: Llama, budget: str, training: Training) -> nn.Module:
    """Keep the entries of the adapter's matrices that are the largest. Their places are not counted."""
    model = whole(network, budget, training)
    entries = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kept = parse_budget(budget, shapeshift.count_parameters(model))
    least = torch.cat([parameter.abs().flatten() for parameter in entries]).topk(kept).values[-1]
    for parameter in entries:
        parameter.mul_(parameter.abs() >= least)
    return model


def trained_small(network: Llama, budget: str, training: Training, learning_rate: float, **options: Any) -> nn.Module:
    """Train as many shared parameters from scratch, for as many steps as the adapter.

    Args:
        network: The network of the base model.
        budget: The share of the adapter's parameters.
        training: The training of the adapter.
        learning_rate: The largest learning rate.
        **options: Fields of :class:`shapeshift.Config`.
    """
    model = compressed_lora(network, budget, training, **options).to(training.device)
    train(model, training.data, replace(cast(Any, training.recipe), learning_rate=learning_rate), training.seed)
    return model


@lru_cache(maxsize=8)
def _trained(network: Llama, training: Training) -> nn.Module:
    model = adapted(network, "", training, r=RANK, lora_alpha=RANK, target_modules=ALL).to(training.device)
    train(model, training.data, cast(Any, training.recipe), training.seed)
    return model


def _windows(training: Training) -> Tensor:
    """Return windows of the training text at even distances."""
    windows: Tensor = training.data.tokens.unfold(0, cast(Any, training.recipe).context, 1)
    return windows[:: len(windows) // CALIBRATION][:CALIBRATION].long()


class SmallerAdapters(Experiment):
    """Train an adapter, make it smaller, and measure what is left of it."""

    metrics = (
        Metric("bits", "bits per byte", margin=0.01, digits=3),
        Metric("error", "relative error of the update", margin=0.01, digits=3),
        Metric("seconds", "making it smaller, s", digits=1),
    )
    datasets = Adapters.datasets

    def task(self, data: str, device: str, data_dir: Path | None = None) -> Task:
        return Adapters().task(data, device, data_dir)

    def describe(self, task: Task) -> dict[str, Any]:
        return Adapters().describe(task)

    def caption(self, data: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
        return Adapters().caption(data, recipe)

    def run(self, row: Row, task: Task, seed: int) -> dict[str, Any]:
        text, held_out = load(task)
        training = Training(text, replace(task.recipe, **row.recipe), seed, task.device)
        network = cast(Llama, row.network)
        before = _updates(_trained(network, training))
        start = time.process_time()
        model = row.build(network, row.budget, training, **row.options).to(task.device)
        seconds = time.process_time() - start
        after = _updates(model)
        lost = torch.stack([(update - after.get(name, 0)).norm() for name, update in before.items()]).norm()
        error = lost / torch.stack([update.norm() for update in before.values()]).norm()
        return {
            "parameters": _count(model),
            "bits": bits_per_byte(model, held_out, cast(Any, training.recipe).context),
            "error": float(error),
            "seconds": seconds,
        }


def _updates(model: nn.Module) -> dict[str, Tensor]:
    """Return what an adapter adds to the weight of each layer."""
    layers: dict[str, Any] = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    return {name: layer.get_delta_weight("default").detach() for name, layer in layers.items()}


def _count(model: nn.Module) -> int:
    """Return the number of trained parameters; without those that are zero where none are shared."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if shapeshift.is_compressed(model):
        return shapeshift.count_parameters(model)
    return sum(int(parameter.count_nonzero()) for parameter in trained)
