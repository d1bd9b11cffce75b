"""Measuring models on batches: perplexity, accuracy and speed, and how far the outputs of two agree."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import shapeshift
from shapeshift.errors import ModelError
from shapeshift.experiments.command_line.sources import Source


@dataclass
class Scores:
    """What one model does.

    Attributes:
        parameters: the number of trainable parameters.
        bytes: the size of its files.
        samples_per_second: how many windows of a text, or images, it takes in a second.
        perplexity: that of the next token; None for other models than causal language models.
        top1: the share of images whose class has the highest score; None without classes.
    """

    parameters: int
    bytes: int
    samples_per_second: float = 0.0
    perplexity: float | None = None
    top1: float | None = None


@dataclass
class Comparison:
    """How far two models agree.

    Attributes:
        agreement: the share of outputs whose highest score is at the same place; None for outputs without scores.
        output_error: the norm of the difference of the outputs, relative to the norm of those of the second model.
    """

    agreement: float | None
    output_error: float


@torch.inference_mode()
def measure(sources: list[Source], batches: Iterable[Any]) -> tuple[list[Scores], Comparison | None]:
    """Run models on the same batches.

    Args:
        sources: One model, or two that are compared.
        batches: As :func:`read_batches` makes them.

    Returns:
        The scores of each model, and the comparison of two.

    Raises:
        ModelError: if the outputs of the two cannot be compared.
    """
    sums = [_Sums() for _ in sources]
    both = _Both()
    for number, batch in enumerate(batches):
        if number == 0:  # allocations and plans of the first pass are no matter of speed
            for source in sources:
                _outputs(source.model, batch)
        outputs = []
        for source, total in zip(sources, sums, strict=True):
            begun = time.perf_counter()
            output, are_scores = _outputs(source.model, batch)
            total.seconds += time.perf_counter() - begun
            total.add(output, batch, _is_causal(source.model))
            outputs.append(output)
        if len(outputs) == 2:
            both.add(outputs[0], outputs[1], are_scores)
    scores = [
        total.scores(shapeshift.count_parameters(source.model), source.num_bytes)
        for source, total in zip(sources, sums, strict=True)
    ]
    return scores, both.comparison() if len(sources) == 2 else None


class _Sums:
    """The sums over batches that the scores of a model are made of."""

    def __init__(self) -> None:
        self.seconds, self.loss = 0.0, 0.0
        self.samples = self.tokens = self.labelled = self.right = 0

    def add(self, output: Tensor, batch: Any, is_causal: bool) -> None:
        self.samples += len(output)
        if isinstance(batch, Mapping):
            if is_causal:
                following = batch["input_ids"][:, 1:]
                self.loss += F.cross_entropy(
                    output[:, :-1].flatten(0, 1).float(), following.flatten(), reduction="sum"
                ).item()
                self.tokens += following.numel()
        elif output.dim() == 2:
            known = batch[1] >= 0
            self.labelled += int(known.sum())
            self.right += int((output.argmax(1) == batch[1])[known].sum())

    def scores(self, parameters: int, num_bytes: int) -> Scores:
        return Scores(
            parameters,
            num_bytes,
            self.samples / self.seconds,
            math.exp(self.loss / self.tokens) if self.tokens else None,
            self.right / self.labelled if self.labelled else None,
        )


class _Both:
    """The sums over batches that a comparison is made of."""

    def __init__(self) -> None:
        self.difference, self.norm, self.equal, self.count = 0.0, 0.0, 0, 0

    def add(self, one: Tensor, other: Tensor, are_scores: bool) -> None:
        if one.shape != other.shape:
            raise ModelError(
                f"the outputs of the two models are of shape {tuple(one.shape)} and {tuple(other.shape)} and cannot be "
                "compared: give --against the model that was compressed"
            )
        self.difference += (one.double() - other.double()).square().sum().item()
        self.norm += other.double().square().sum().item()
        if are_scores:
            same = one.argmax(-1) == other.argmax(-1)
            self.equal, self.count = self.equal + int(same.sum()), self.count + same.numel()

    def comparison(self) -> Comparison:
        agreement = self.equal / self.count if self.count else None
        return Comparison(agreement, math.sqrt(self.difference / max(self.norm, 1e-300)))


def _outputs(model: nn.Module, batch: Any) -> tuple[Tensor, bool]:
    """Return the scores of a model or its last hidden states, and whether they are scores."""
    found: Any = model(**batch) if isinstance(batch, Mapping) else model(batch[0])
    if isinstance(found, Tensor):
        return found, True
    for name in ("logits", "last_hidden_state"):
        if isinstance(output := getattr(found, name, None), Tensor):
            return output, name == "logits"
    raise ModelError(f"the outputs of a {type(model).__name__} have no logits and no last_hidden_state to compare")


def _is_causal(model: nn.Module) -> bool:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    config: Any = getattr(model, "config", None)
    return CAUSAL.get(getattr(config, "model_type", "")) in {base.__name__ for base in type(model).__mro__}
