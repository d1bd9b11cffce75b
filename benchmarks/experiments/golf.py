"""Language models in a file of some size: bits per byte of held-out text, with everything in the file counted."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import shapeshift
from benchmarks.experiments.base import Experiment, Metric
from benchmarks.experiments.networks import Network, Training
from benchmarks.row import Row
from benchmarks.task import Task
from shapeshift.budget import bytes_of_budget
from shapeshift.errors import BudgetError
from shapeshift.experiments.data.plain_text import BYTES, SOURCES, PlainText, load_text
from shapeshift.generators.base import calibrate_gains
from shapeshift.generators.wavg import COEFFICIENT_NORM, WeightedAverage
from shapeshift.recurrence import fold, regulariser
from shapeshift.surgery.roots import require_shared

HEADS = 4

# The formats of the file where a row names no others: 8 bits for all matrices, 16 for norms.
FORMATS: dict[str, Any] = {"store": "int8", "rest": "bfloat16"}


@dataclass(frozen=True)
class GolfRecipe:
    """The training of a language model: AdamW with a rate that rises for a tenth of the steps and then falls to zero.

    Attributes:
        steps: The number of steps.
        batch_size: The number of windows of text of a step.
        context: The bytes of a window.
        learning_rate: The largest learning rate.
        weight_decay: The weight decay. Coefficients and one-dimensional parameters have none.
        regulariser: The factor on the similarity of the layers in the loss of soft sharing, after which layers that are
            nearly equal are tied. 0 means neither.
    """

    steps: int = 1500
    batch_size: int = 4
    context: int = 128
    learning_rate: float = 0.008
    weight_decay: float = 0.1
    regulariser: float = 0.0


@dataclass(frozen=True)
class Llama(Network):
    """A causal transformer over bytes, with tied embeddings.

    Attributes:
        layers: The number of blocks that run.
        width: The number of channels, a multiple of 8.
        hidden: The number of channels inside the feed-forward layers.
        blocks: The number of different blocks, which are repeated in their order.
    """

    layers: int
    width: int
    hidden: int
    blocks: int

    def __str__(self) -> str:
        return f"Llama-{self.layers}-{self.width}-{self.hidden}"

    def build(self, data: Any = None) -> LlamaForCausalLM:
        config = LlamaConfig(
            vocab_size=BYTES,
            hidden_size=self.width,
            intermediate_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=HEADS,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            use_cache=False,
            initializer_range=0.5 * self.width**-0.5,  # the default is meant for thousands of channels
            bos_token_id=None,
            eos_token_id=None,
        )
        model = LlamaForCausalLM(config)
        layers = model.model.layers
        for index in range(self.blocks, self.layers):
            layers[index] = layers[index % self.blocks]
        return model


def whole(network: Llama, budget: str, training: Training, **options: Any) -> nn.Module:
    """Build a network whose weights share nothing, in the format of the others: a store with room for each weight."""
    return shapeshift.compress(network.build(), "100%", max_templates=1, **{**FORMATS, **options})


def shared(network: Llama, budget: str, training: Training, by_depth: bool = False, **options: Any) -> nn.Module:
    """Build a network and compress it into a file.

    Args:
        network: The network that is built.
        budget: The bytes of the file.
        training: The training that the network is built for.
        by_depth: Whether coefficients start by depth: a weight starts as a mean of the two templates whose places
            among the templates are nearest to its own place among the group's weights.
        **options: Fields of :class:`shapeshift.Config`.
    """
    model = shapeshift.compress(network.build(), budget, **{**FORMATS, **options})
    if by_depth:
        for generator in require_shared(model).generators():
            if isinstance(generator, WeightedAverage) and generator.coefficients is not None:
                _start_by_depth(generator)
    return model


@torch.no_grad()
def _start_by_depth(generator: WeightedAverage) -> None:
    counts = generator.layout.counts
    rows = []
    for index, count in enumerate(counts):
        place = index / max(1, len(counts) - 1) * (count - 1)
        row = (1 - (torch.arange(count) - place).abs()).clamp_min(0)
        rows.append(COEFFICIENT_NORM * F.normalize(row, dim=0))
    assert generator.coefficients is not None
    generator.coefficients.copy_(torch.cat(rows))
    calibrate_gains(generator)


class Golf(Experiment):
    """Train a language model, save it in a file, and measure what is loaded from the file."""

    metrics = (
        Metric("bits", "bits per byte", margin=0.01, digits=3),
        Metric("bytes", "bytes of the file", digits=0),
        Metric("tokens", "bytes seen", digits=0),
        Metric("seconds", "training, s", digits=0),
    )
    datasets = tuple(SOURCES)

    def task(self, data: str, device: str, data_dir: Path | None = None) -> Task:
        return Task(data, GolfRecipe(), {"scored": 1 << 17, "validation": 0}, device, data_dir)

    def describe(self, task: Task) -> dict[str, Any]:
        training, test = load(task)
        return {"train": len(training.tokens), "test": len(test.tokens)}

    def caption(self, data: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
        return (
            f"{data['train']:,} bytes of text to train on, of which a step reads {recipe['batch_size']} windows of "
            f"{recipe['context']}, and {data['test']:,} bytes held out"
        )

    def run(self, row: Row, task: Task, seed: int) -> dict[str, Any]:
        text, held_out = load(task)
        recipe = replace(task.recipe, **row.recipe)
        training = Training(text, recipe, seed, task.device)
        model = row.build(row.network, row.budget, training, **row.options).to(task.device)
        start = time.process_time()
        train(model, text, recipe, seed)
        seconds = time.process_time() - start
        if recipe.regulariser:
            fold(model)
        loaded, size = through_file(model, row.network.build(text))
        if size > (bytes_of_budget(row.budget) or math.inf):
            raise BudgetError(f"the file of {row.key} takes {size:,} bytes, and {row.budget} are allowed")
        return {
            "parameters": shapeshift.count_parameters(model),
            "bits": bits_per_byte(loaded.to(task.device), held_out, recipe.context),
            "bytes": size,
            "seconds": seconds,
            "tokens": recipe.steps * recipe.batch_size * recipe.context,
        }


def load(task: Task) -> tuple[PlainText, PlainText]:
    """Return the training text and the part of the held-out text, or of the validation text, that is scored."""
    return _load(task.data, task.data_dir, task.options["scored"], bool(task.options["validation"]))


@lru_cache(maxsize=1)
def _load(data: str, data_dir: Path | None, scored: int, validation: bool) -> tuple[PlainText, PlainText]:
    training, test = load_text(SOURCES[data].files(data_dir), validation=validation)
    return training, replace(test, tokens=test.tokens[:scored])


def train(model: nn.Module, text: PlainText, recipe: GolfRecipe, seed: int) -> None:
    """Train a language model in place on windows of a text, which the seed draws.

    Args:
        model: A causal language model of transformers.
        text: The training text.
        recipe: The recipe.
        seed: The seed of the windows.
    """
    places = torch.Generator().manual_seed(seed)
    groups = shapeshift.parameter_groups(model, recipe.weight_decay)
    optimizer = torch.optim.AdamW(groups, recipe.learning_rate, betas=(0.9, 0.95))
    warm_up = max(1, recipe.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (recipe.steps - step) / (recipe.steps - warm_up))
    )
    model.train()
    device = next(model.parameters()).device
    for _ in range(recipe.steps):
        starts = torch.randint(len(text.tokens) - recipe.context, (recipe.batch_size,), generator=places)
        windows = torch.stack([text.tokens[start : start + recipe.context + 1] for start in starts.tolist()])
        optimizer.zero_grad()
        loss = losses(model, windows.to(device)).mean()
        if recipe.regulariser:
            loss = loss + regulariser(model, recipe.regulariser)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def losses(model: nn.Module, windows: Tensor) -> Tensor:
    """Return the loss in nats of each token of some windows but the first, of shape (N, length - 1)."""
    tokens = windows.long()
    logits = model(tokens[:, :-1]).logits
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(len(tokens), -1)


@torch.inference_mode()
def bits_per_byte(model: nn.Module, text: PlainText, context: int, batch_size: int = 64) -> float:
    """Return the mean loss of a text in bits for each byte.

    Args:
        model: A causal language model of transformers.
        text: The text. It is cut into windows, each of which is predicted without those before it, except for one
            token. What remains at the end is left out.
        context: The tokens that each window predicts.
        batch_size: The number of windows at once.
    """
    model.eval()
    device = next(model.parameters()).device
    windows = text.tokens.unfold(0, context + 1, context)
    nats = sum(losses(model, batch.to(device)).sum().item() for batch in windows.split(batch_size))
    return nats / math.log(2) / text.count_bytes(windows[:, 1:])


def through_file(model: nn.Module, fresh: nn.Module) -> tuple[nn.Module, int]:
    """Save a model, load it again, and count the bytes of its files.

    Args:
        model: A compressed model.
        fresh: The model as it is before it is compressed.

    Returns:
        The loaded model and the number of bytes.
    """
    with TemporaryDirectory() as folder:
        shapeshift.save(model, folder)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        return shapeshift.load(folder, fresh), size
