"""Classifiers of text and their test errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.experiments.classification import Classification
from benchmarks.experiments.networks import Network
from benchmarks.task import Task
from shapeshift.experiments.data.text import MODULES, Passages, passages
from shapeshift.experiments.data.vocabulary import PADDING
from shapeshift.experiments.training import Recipe


class TextClassification(Classification):
    """Train a classifier of passages of Python's standard library, and measure its test error."""

    datasets = ("python_text",)

    def task(self, data: str, device: str, data_dir: Path | None = None) -> Task:
        return Task(
            data,
            Recipe(epochs=8, batch_size=32, learning_rate=2e-3, weight_decay=0.01, optimizer="adamw"),
            device=device,
        )

    def load(self, task: Task) -> tuple[Passages, Passages]:
        return _load()

    def describe(self, task: Task) -> dict[str, Any]:
        training, test = self.load(task)
        return {
            "train": len(training.labels),
            "test": len(test.labels),
            "classes": len(MODULES),
            "shape": list(training.tokens.shape[1:]),
        }

    def caption(self, data: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
        return (
            f"{data['train']:,} training and {data['test']:,} test passages of {data['shape'][0]} tokens from "
            f"{data['classes']} modules of Python's library, {recipe['epochs']} epochs in batches of "
            f"{recipe['batch_size']}"
        )


_load = lru_cache(maxsize=1)(passages)


@dataclass(frozen=True)
class Bert(Network):
    """An encoder of text.

    Attributes:
        layers: The number of transformer layers.
        size: The number of channels. Each head has 16 of them, and the feed-forward layers are four times as wide.
    """

    layers: int
    size: int

    def __str__(self) -> str:
        return f"BERT-{self.layers}-{self.size}"

    def build(self, data: Passages) -> nn.Module:
        return TextClassifier(
            BertConfig(
                vocab_size=data.vocabulary,
                hidden_size=self.size,
                num_hidden_layers=self.layers,
                num_attention_heads=self.size // 16,
                intermediate_size=4 * self.size,
                max_position_embeddings=data.tokens.shape[1],
                num_labels=len(MODULES),  # type: ignore[call-arg]
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                initializer_range=self.size**-0.5,  # the default is meant for hundreds of channels
                pad_token_id=PADDING,
                attn_implementation="eager",  # pruning traces the model
            )
        )


class TextClassifier(nn.Module):
    """A BERT that maps tokens alone to logits alone."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.model = BertForSequenceClassification(config)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of a batch of padded tokens, of shapes (N, classes) and (N, length)."""
        logits: Tensor = self.model(tokens, attention_mask=(tokens != PADDING).long()).logits
        return logits
