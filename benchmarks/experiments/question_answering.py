"""Encoders that are pretrained on text, and then answer questions about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AlbertConfig, AlbertModel, PreTrainedTokenizerFast

import shapeshift
from benchmarks.experiments.base import Experiment, Metric
from benchmarks.experiments.networks import Network
from benchmarks.row import Row
from benchmarks.task import Task
from shapeshift.budget import parse_budget
from shapeshift.errors import DataError
from shapeshift.experiments.data.perlfaq import perlfaq
from shapeshift.experiments.data.questions import questions
from shapeshift.experiments.data.squad import Question, load_squad
from shapeshift.experiments.data.wordpiece import train_wordpiece
from shapeshift.experiments.tasks.answer_scores import score
from shapeshift.experiments.tasks.masked_language import pretrain
from shapeshift.experiments.tasks.question_answering import QuestionAnswering, Windows, answer, fine_tune, make_windows
from shapeshift.experiments.training import Recipe

SMALL, FULL = "small", "full"

Options = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class AnsweringRecipe:
    """The sizes of encoders, and the recipes of their training.

    Attributes:
        size: The sizes of :class:`Albert` that are built, "small" or "full".
        vocabulary: The number of word pieces.
        length: The number of tokens of a question and as much of its passage as fits.
        stride: The number of tokens of a passage that two windows share.
        question_length: The largest number of tokens of a question.
        mark_matches: Whether tokens of a passage that the question has too are marked.
        pretraining: The recipe of predicting masked tokens in the passages of the training set.
        fine_tuning: The recipe of learning to answer the questions.
        search: The number of epochs of pretraining in which groups of layers are learned.
    """

    size: str
    vocabulary: int
    length: int
    stride: int
    question_length: int
    mark_matches: bool
    pretraining: Recipe
    fine_tuning: Recipe
    search: int


@dataclass(frozen=True)
class Sizes:
    """The sizes of an encoder.

    Attributes:
        layers: The number of transformer layers.
        hidden: The number of channels between layers.
        heads: The number of heads of each attention.
        inner: The number of channels within a feed-forward layer.
        embedding: The length of a word's embedding.
    """

    layers: int
    hidden: int
    heads: int
    inner: int
    embedding: int


@dataclass(frozen=True)
class Albert(Network):
    """ALBERT (Lan et al. 2020): an encoder with short embeddings, whose layers are one layer or, unrolled, several.

    Attributes:
        title: The name of the network in tables and patterns.
        small: The sizes on a CPU.
        full: The sizes on a GPU.
    """

    title: str
    small: Sizes
    full: Sizes

    def __str__(self) -> str:
        return self.title

    def build(self, data: Pretraining, unrolled: bool = False) -> nn.Module:
        """Build the encoder.

        Args:
            data: The pretraining that it is built for.
            unrolled: Whether each layer has weights of its own.
        """
        sizes = self.full if data.recipe.size == FULL else self.small
        config = AlbertConfig(
            vocab_size=len(data.tokenizer),
            embedding_size=sizes.embedding,
            hidden_size=sizes.hidden,
            num_hidden_layers=sizes.layers,
            num_hidden_groups=sizes.layers if unrolled else 1,
            num_attention_heads=sizes.heads,
            intermediate_size=sizes.inner,
            hidden_act="gelu_pytorch_tanh",  # the function that ALBERT has, in one kernel
            max_position_embeddings=data.recipe.length,
            type_vocab_size=2 + data.recipe.mark_matches,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            # The usual one is meant for hundreds of channels.
            initializer_range=0.02 if data.recipe.size == FULL else sizes.hidden**-0.5,
            pad_token_id=data.tokenizer.pad_token_id,
        )
        return AlbertModel(config, add_pooling_layer=False)


@dataclass(frozen=True)
class Pretraining:
    """The pretraining that an encoder is built for.

    Attributes:
        texts: The texts that it is pretrained on.
        tokenizer: The tokenizer of the texts.
        recipe: The recipe.
        seed: The seed of the order of the texts, and of the choice of masked tokens.
        device: The device that it is trained on.
    """

    texts: tuple[str, ...]
    tokenizer: PreTrainedTokenizerFast
    recipe: AnsweringRecipe
    seed: int
    device: str

    def run(self, encoder: nn.Module, epochs: int | None = None) -> None:
        """Pretrain an encoder in place, for all epochs or for some."""
        recipe = replace(self.recipe.pretraining, epochs=epochs or self.recipe.pretraining.epochs)
        pretrain(encoder, self.texts, self.tokenizer, self.recipe.length, recipe, self.seed)


def repeated(network: Albert, budget: str, pretraining: Pretraining) -> nn.Module:
    """Build ALBERT itself: one layer, repeated."""
    return network.build(pretraining)


def distinct(network: Albert, budget: str, pretraining: Pretraining) -> nn.Module:
    """Build the encoder unrolled, each layer with weights of its own."""
    return network.build(pretraining, unrolled=True)


def shared(network: Albert, budget: str, pretraining: Pretraining, **options: Any) -> nn.Module:
    """Build the encoder unrolled, and compress it. Budgets are relative to ALBERT's own size.

    Args:
        network: The network that is built.
        budget: The budget of the encoder, such as "100%" for as many parameters as ALBERT has.
        pretraining: The pretraining that it is built for.
        **options: Fields of :class:`shapeshift.Config`.
    """
    size = parse_budget(budget, shapeshift.count_parameters(network.build(pretraining)))
    return shapeshift.compress(network.build(pretraining, unrolled=True), size, **options)


def learned(network: Albert, budget: str, pretraining: Pretraining, num_groups: int, **options: Any) -> nn.Module:
    """Build the encoder unrolled, learn which layers share in a part of the pretraining, and compress it so.

    Args:
        network: The network that is built.
        budget: The budget of the encoder, relative to ALBERT's own size.
        pretraining: The pretraining that it is built for.
        num_groups: The number of parameter groups of the mapping.
        **options: Fields of :class:`shapeshift.Config`.
    """
    size = parse_budget(budget, shapeshift.count_parameters(network.build(pretraining)))
    encoder = network.build(pretraining, unrolled=True).to(pretraining.device)

    def search(candidate: nn.Module) -> None:
        pretraining.run(candidate, pretraining.recipe.search)

    chosen = {name: options[name] for name in ("include", "exclude") if name in options}
    mapping = shapeshift.learn_mapping(encoder, size, search, num_groups=num_groups, seed=pretraining.seed, **chosen)
    return shapeshift.compress(encoder, size, mapping=mapping, **options)


class Answering(Experiment):
    """Pretrain an encoder on passages, train it to answer questions about them, and measure F1 and exact match."""

    metrics = (
        Metric("f1", "F1, %", higher_is_better=True),
        Metric("exact", "exact match, %", higher_is_better=True),
    )
    datasets = ("python_topics", "perlfaq", "squad_v1.1", "squad_v2.0")

    def task(self, data: str, device: str, data_dir: Path | None = None) -> Task:
        def recipe(epochs: int, batch_size: int, rate: float) -> Recipe:
            return Recipe(epochs, batch_size, rate, weight_decay=0.01, optimizer="adamw")

        options: Mapping[str, int] = {}
        if device == "cpu":
            options = {"python_topics": {"passage": 24, "reach": 4}, "perlfaq": {"words": 16}}.get(data, {})
            sizes = AnsweringRecipe(SMALL, 1000, 64, 16, 20, True, recipe(8, 16, 2e-3), recipe(3, 16, 2e-3), search=3)
            if data == "perlfaq":  # each answer is in several passages
                shorter = recipe(3, 16, 2e-3)
                sizes = replace(sizes, length=96, pretraining=shorter, fine_tuning=recipe(6, 16, 2e-3), search=1)
        elif data in ("python_topics", "perlfaq"):
            sizes = AnsweringRecipe(FULL, 8000, 128, 32, 48, False, recipe(200, 64, 2e-4), recipe(10, 32, 5e-5), 40)
        else:
            sizes = AnsweringRecipe(FULL, 30_000, 384, 128, 64, False, recipe(40, 64, 2e-4), recipe(2, 32, 5e-5), 8)
        return Task(data, sizes, options, device, data_dir)

    def describe(self, task: Task) -> dict[str, Any]:
        training, test = _load(task.data, task.data_dir, tuple(task.options.items()))
        passages = len({question.context for question in training})
        return {"train": len(training), "test": len(test), "passages": passages}

    def caption(self, data: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
        pretraining, tuning = recipe["pretraining"], recipe["fine_tuning"]
        return (
            f"{data['train']:,} training and {data['test']:,} test questions, encoders of {recipe['size']} size that "
            f"were pretrained on the {data['passages']:,} training passages for {pretraining['epochs']} epochs, and "
            f"trained to answer for {tuning['epochs']}, in batches of {tuning['batch_size']}"
        )

    def run(self, row: Row, task: Task, seed: int) -> dict[str, Any]:
        recipe = replace(task.recipe, **row.recipe)
        prepared = _prepare(replace(task, recipe=recipe))
        pretraining = Pretraining(prepared.texts, prepared.tokenizer, recipe, seed, task.device)
        encoder = row.build(row.network, row.budget, pretraining, **row.options).to(task.device)
        pretraining.run(encoder)
        model = QuestionAnswering(encoder)
        fine_tune(model, prepared.training, recipe.fine_tuning, seed)
        threshold = 0.0 if any(not question.answers for question in prepared.questions) else None
        found = score(prepared.questions, answer(model, prepared.questions, prepared.test, threshold=threshold))
        return {"parameters": shapeshift.count_parameters(model), "f1": found.f1, "exact": found.exact}


@dataclass(frozen=True)
class _Prepared:
    texts: tuple[str, ...]
    tokenizer: PreTrainedTokenizerFast
    training: Windows
    questions: list[Question]
    test: Windows


def _prepare(task: Task) -> _Prepared:
    return _cached(task.data, task.data_dir, tuple(task.options.items()), task.recipe)


@lru_cache(maxsize=1)
def _cached(data: str, data_dir: Path | None, options: Options, recipe: AnsweringRecipe) -> _Prepared:
    training, test = _load(data, data_dir, options)
    texts = tuple(dict.fromkeys(question.context for question in training))
    tokenizer = train_wordpiece(texts, recipe.vocabulary)
    sizes = (recipe.length, recipe.stride, recipe.question_length, recipe.mark_matches)
    windows = [make_windows(part, tokenizer, *sizes) for part in (training, test)]
    return _Prepared(texts, tokenizer, windows[0], test, windows[1])


@lru_cache(maxsize=1)
def _load(data: str, data_dir: Path | None, options: Options) -> tuple[list[Question], list[Question]]:
    if data == "python_topics":
        return questions(**dict(options))
    if data == "perlfaq":
        return perlfaq(data_dir, **dict(options))
    if data_dir is None:
        raise DataError(f"the data set {data!r} is read from files: say in which folder they are (data_dir)")
    version = data.removeprefix("squad_")
    training, test = (load_squad(data_dir / f"{part}-{version}.json") for part in ("train", "dev"))
    return training, test
