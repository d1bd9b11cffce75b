"""The benchmark of language models in files."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import shapeshift
from benchmarks.experiments import golf
from benchmarks.experiments.golf import (
    FORMATS,
    Golf,
    GolfRecipe,
    Llama,
    bits_per_byte,
    load,
    shared,
    through_file,
    train,
    whole,
)
from benchmarks.experiments.networks import Training
from benchmarks.row import Row
from benchmarks.tables.golf import ROWS, TABLE
from benchmarks.tables.golf_rates import TABLE as RATES_TABLE
from benchmarks.task import Task
from shapeshift.budget import bytes_of_budget
from shapeshift.errors import BudgetError
from shapeshift.experiments.data.plain_text import PlainText
from shapeshift.generators.wavg import COEFFICIENT_NORM, WeightedAverage
from shapeshift.recurrence import Folding, fold
from shapeshift.surgery.roots import require_shared
from tests.tolerances import assert_close

EXPERIMENT = Golf()
NETWORK = Llama(layers=2, width=16, hidden=24, blocks=2)
TINY = Task("python_library", GolfRecipe(steps=3, batch_size=2, context=16), {"scored": 500, "validation": 0})
TRAINING = Training(None, TINY.recipe, 0, "cpu")


class Uniform(nn.Module):
    """Predicts one token in front of all others, with a given advantage in its logit."""

    def __init__(self, token: int, advantage: float) -> None:
        super().__init__()
        self.row = nn.Parameter(advantage * torch.eye(256)[token])

    def forward(self, tokens: Tensor) -> Any:
        return SimpleNamespace(logits=self.row.expand(*tokens.shape, 256))


def test_bits_are_counted_for_each_predicted_byte() -> None:
    text = PlainText(torch.full((101,), 7, dtype=torch.uint8), torch.ones(256))
    assert bits_per_byte(Uniform(7, 0.0), text, 10) == pytest.approx(8)
    assert bits_per_byte(Uniform(7, 50.0), text, 10) == pytest.approx(0, abs=1e-6)
    # With tokens of two bytes each, the same loss is half as many bits per byte.
    assert bits_per_byte(Uniform(7, 0.0), replace(text, token_bytes=torch.full((256,), 2)), 10) == pytest.approx(4)


def test_a_run_measures_the_file() -> None:
    row = Row(NETWORK, "default", "10kB", shared)
    torch.manual_seed(0)
    run = EXPERIMENT.run(row, TINY, seed=0)
    assert json.loads(json.dumps(run)) == run
    assert {metric.name for metric in EXPERIMENT.metrics} < set(run)
    assert 9_800 <= run["bytes"] <= 10_000
    assert run["tokens"] == 3 * 2 * 16
    torch.manual_seed(0)
    again = EXPERIMENT.run(row, TINY, seed=0)
    assert {**again, "seconds": 0} == {**run, "seconds": 0}


def test_a_file_above_the_budget_is_an_error() -> None:
    with pytest.raises(BudgetError, match=r"takes .* bytes, and 1kB are allowed"):
        EXPERIMENT.run(Row(NETWORK, "whole", "1kB", whole), TINY, seed=0)


@pytest.mark.parametrize("build", [whole, shared])
def test_the_loaded_model_is_the_one_that_was_trained(build: Any) -> None:
    torch.manual_seed(0)
    model = build(NETWORK, "10kB", TRAINING)
    text, held_out = load(TINY)
    train(model, text, TINY.recipe, seed=0)
    loaded, size = through_file(model, NETWORK.build())
    assert 5_000 < size < 20_000
    # Norms are kept in 16 bits.
    assert bits_per_byte(loaded, held_out, 16) == pytest.approx(bits_per_byte(model, held_out, 16), abs=0.02)


def test_nothing_is_shared_in_a_whole_network() -> None:
    model = whole(NETWORK, "", TRAINING)
    assert shapeshift.count_parameters(model) == shapeshift.count_parameters(NETWORK.build())
    (group,) = shapeshift.report(model).groups
    spans = sorted(span[1:] for weight in group.weights for span in weight.source.templates)
    assert len(spans) == len(group.weights)
    assert all(stop == start for (_, stop), (start, _) in itertools.pairwise(spans))


def test_soft_sharing_is_folded_before_the_file_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Folding] = []
    monkeypatch.setattr(golf, "fold", lambda model: found.append(fold(model)))
    options = {"mapping": {"*q_proj*": "q", "*": "rest"}, "max_templates": 2, "coefficients": "orthogonal"}
    row = Row(Llama(4, 16, 24, 4), "soft", "9kB", shared, options, {"regulariser": 10.0, "steps": 20})
    torch.manual_seed(0)
    run = EXPERIMENT.run(row, TINY, seed=0)
    (folding,) = found
    assert len(folding.groups[0].layers) < 4
    assert folding.after < folding.before
    assert run["parameters"] == folding.after


def test_blocks_are_repeated() -> None:
    torch.manual_seed(0)
    plain, repeated = Llama(4, 16, 24, 4).build(), Llama(4, 16, 24, 2).build()
    layers = repeated.model.layers
    assert layers[2] is layers[0]
    assert layers[3] is layers[1] is not layers[0]
    own = sum(parameter.numel() for parameter in plain.model.layers[0].parameters())
    assert shapeshift.count_parameters(plain) - shapeshift.count_parameters(repeated) == 2 * own
    logits = repeated(torch.arange(8)[None]).logits
    layers[2] = layers[1]
    assert not torch.equal(repeated(torch.arange(8)[None]).logits, logits)


def test_coefficients_start_by_depth() -> None:
    torch.manual_seed(0)
    mapping = {"*q_proj*": "q", "*": "rest"}
    model = shared(Llama(4, 16, 24, 4), "22kB", TRAINING, by_depth=True, mapping=mapping, max_templates=2)
    generator = require_shared(model)["q"]
    assert isinstance(generator, WeightedAverage)
    assert generator.coefficients is not None
    rows = generator.coefficients.detach().view(4, 2)
    assert_close(rows.norm(dim=1), torch.full((4,), COEFFICIENT_NORM), "reordered")
    assert_close(rows[0], torch.tensor([COEFFICIENT_NORM, 0.0]), "reordered")
    assert_close(rows[3], torch.tensor([0.0, COEFFICIENT_NORM]), "reordered")
    assert_close(rows[1, 0] / rows[1, 1], torch.tensor(2.0), "reordered")
    for index, weight in enumerate(generator.weights):
        assert_close(generator.generate([index])[0].std(correction=0), torch.tensor(weight.std), "reordered")


def test_the_rate_rises_and_falls_and_windows_follow_the_seed() -> None:
    text, held_out = load(TINY)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        model = whole(NETWORK, "", TRAINING)
        train(model, text, replace(TINY.recipe, steps=5), seed)
        found.append(bits_per_byte(model, held_out, 16))
    assert found[0] == found[1] != found[2]


def test_validation_text_is_not_scored_in_the_end() -> None:
    training, test = load(TINY)
    fewer, validation = load(replace(TINY, options={**TINY.options, "validation": 1}))
    assert len(fewer.tokens) < len(training.tokens)
    assert not torch.equal(validation.tokens, test.tokens)


def test_the_caption_says_what_is_read() -> None:
    caption = EXPERIMENT.caption(EXPERIMENT.describe(TINY), asdict(TINY.recipe))
    assert "a step reads 2 windows of 16" in caption
    assert "and 500 bytes held out" in caption


def test_every_file_fits_its_budget() -> None:
    """A row of whole weights has to use its file nearly up; the others do by their budget."""
    for row in ROWS:
        assert isinstance(row.network, Llama)
        allowed = bytes_of_budget(row.budget)
        assert allowed
        json.dumps(TABLE.settings(row, TINY))
        if row.build is whole:
            with torch.device("meta"):
                model = row.network.build()
            config = shapeshift.Config(max_templates=1, **{**FORMATS, **row.options})
            size = shapeshift.plan_compression(model, "100%", config).checkpoint_bytes
            assert 0.98 * allowed <= size <= allowed, row.key
        else:
            assert row.network.blocks == row.network.layers


def test_rates_are_chosen_on_validation_text() -> None:
    task = RATES_TABLE.task("gcide", "cpu")
    assert task.options == {**TABLE.task("gcide", "cpu").options, "validation": 1}
    rates = {(row.budget, row.recipe["learning_rate"]) for row in RATES_TABLE.rows}
    assert len(rates) == len(RATES_TABLE.rows) / 2 == 9
    assert {(row.budget, row.recipe["learning_rate"]) for row in ROWS} < rates
