"""Adapters of a language model to another kind of text, each with at most some number of trained parameters."""

from __future__ import annotations

import copy
import hashlib
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import peft
import torch
from torch import nn

import shapeshift
import shapeshift.integrations.peft
from benchmarks.experiments.base import Experiment, Metric
from benchmarks.experiments.golf import GolfRecipe, Llama, bits_per_byte, load, train
from benchmarks.experiments.networks import Training
from benchmarks.row import Row
from benchmarks.task import Task
from shapeshift.budget import parse_budget
from shapeshift.checkpoint.replacing import replacing
from shapeshift.errors import BudgetError
from shapeshift.experiments.data.cache import cache_dir
from shapeshift.experiments.data.plain_text import SOURCES, load_text

BASE_TEXT = "gcide"

# The matrices of a block. The usual choice of the methods is the first two.
QUERY_VALUE = ["q_proj", "v_proj"]
ATTENTION = [*QUERY_VALUE, "k_proj", "o_proj"]
ALL = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]

RANK = 4  # of the adapters that are made from few parameters

# The field of a method's configuration that seeds what it draws and does not store.
_SEEDS = {"VeraConfig": "projection_prng_key", "UniLoraConfig": "proj_seed"}


@dataclass(frozen=True)
class AdapterRecipe(GolfRecipe):
    """The training of an adapter, and that of the model that it adapts.

    Attributes:
        base_steps: The number of steps of the base model.
        base_learning_rate: The largest learning rate of the base model.
        base_weight_decay: The weight decay of the base model.
    """

    steps: int = 120
    weight_decay: float = 0.0
    base_steps: int = 1500
    base_learning_rate: float = 0.005
    base_weight_decay: float = 0.1

    @property
    def of_base(self) -> GolfRecipe:
        """The training of the base model."""
        return GolfRecipe(
            self.base_steps, self.batch_size, self.context, self.base_learning_rate, self.base_weight_decay
        )


def unadapted(network: Llama, budget: str, training: Training) -> nn.Module:
    """Return the base model, all of whose parameters are frozen."""
    return _base(network, training).requires_grad_(False)


def adapted(network: Llama, budget: str, training: Training, config: str = "LoraConfig", **options: Any) -> nn.Module:
    """Add an adapter of PEFT to the base model.

    Args:
        network: The network of the base model.
        budget: The largest number of trained parameters.
        training: The training of the adapter.
        config: The name of the class of the adapter's configuration.
        **options: The fields of the configuration.
    """
    seed = {_SEEDS[config]: training.seed} if config in _SEEDS else {}
    model = _base(network, training)
    torch.manual_seed(training.seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Specified to not (save|load) vera_A")
        found: nn.Module = peft.get_peft_model(model, getattr(peft, config)(**seed, **options))
        return found


def _base(network: Llama, training: Training) -> nn.Module:
    """Return the base model of a training, whose recipe is an :class:`AdapterRecipe`."""
    return base_model(network, cast(AdapterRecipe, training.recipe).of_base)


def compressed_lora(network: Llama, budget: str, training: Training, **options: Any) -> nn.Module:
    """Add LoRA to every matrix of the base model, and make all of it from shared parameters.

    Args:
        network: The network of the base model.
        budget: The number of shared parameters.
        training: The training of the adapter.
        **options: Fields of :class:`shapeshift.Config`.
    """
    model = adapted(network, budget, training, r=RANK, lora_alpha=RANK, target_modules=ALL)
    return shapeshift.compress(model, budget, **options)


class Adapters(Experiment):
    """Train an adapter on another text than the base model's, save it, and measure what is loaded from its file."""

    metrics = (
        Metric("bits", "bits per byte", margin=0.01, digits=3),
        Metric("bytes", "bytes of the file", digits=0),
        Metric("seconds", "training, s", digits=0),
    )
    datasets = ("perl_doc", "python_library")

    def task(self, data: str, device: str, data_dir: Path | None = None) -> Task:
        return Task(data, AdapterRecipe(), {"scored": 1 << 16, "validation": 0}, device, data_dir)

    def describe(self, task: Task) -> dict[str, Any]:
        training, test = load(task)
        return {"train": len(training.tokens), "test": len(test.tokens)}

    def caption(self, data: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
        windows = f"{recipe['batch_size']} windows of {recipe['context']} bytes"
        return (
            f"a base model after {recipe['base_steps']:,} steps on {BASE_TEXT}, adapted in {recipe['steps']:,} steps "
            f"of {windows} to {data['train']:,} bytes of text, and {data['test']:,} bytes held out"
        )

    def run(self, row: Row, task: Task, seed: int) -> dict[str, Any]:
        text, held_out = load(task)
        recipe = replace(task.recipe, **row.recipe)
        model = row.build(row.network, row.budget, Training(text, recipe, seed, task.device), **row.options)
        model.to(task.device)
        count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        if row.budget and count > parse_budget(row.budget, count):
            raise BudgetError(f"{row.key} trains {count:,} parameters, and {row.budget} are allowed")
        start = time.process_time()
        if count:
            train(model, text, recipe, seed)
        seconds = time.process_time() - start
        loaded, size = through_file(model, base_model(cast(Llama, row.network), recipe.of_base))
        return {
            "parameters": count,
            "bits": bits_per_byte(loaded.to(task.device), held_out, recipe.context),
            "bytes": size,
            "seconds": seconds,
        }


def through_file(model: nn.Module, base: nn.Module) -> tuple[nn.Module, int]:
    """Save an adapter, load it onto its base model, and count the bytes of its tensors' file.

    Args:
        model: The model with an adapter, or without: then there is no file.
        base: The base model. The adapter is put into it.

    Returns:
        The loaded model and the number of bytes.
    """
    if not isinstance(model, peft.PeftModel):
        return base, 0
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        size = Path(folder, "adapter_model.safetensors").stat().st_size
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Specified to not (save|load) vera_A")
            return peft.PeftModel.from_pretrained(base, folder), size  # type: ignore[arg-type]


def base_model(network: Llama, recipe: GolfRecipe) -> nn.Module:
    """Return a copy of the base model. It is trained with seed 0 on the first call, and then kept in the cache folder.

    Args:
        network: The network.
        recipe: The training of the base model.
    """
    return copy.deepcopy(_base_model(network, recipe))


@lru_cache(maxsize=1)
def _base_model(network: Llama, recipe: GolfRecipe) -> nn.Module:
    name = hashlib.sha256(repr((BASE_TEXT, network, recipe)).encode()).hexdigest()[:16]
    path = cache_dir() / f"base_{name}.pt"
    torch.manual_seed(0)
    model = network.build()
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model
    text, _ = load_text(SOURCES[BASE_TEXT].files())
    train(model, text, recipe, seed=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as written:
        torch.save(model.state_dict(), written)
    return model
