"""The evaluation of a family, and the order of its members."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import shapeshift
from shapeshift.networks.wide_resnet import WideResNet
from shapeshift.superweights import Evaluation, Family, Scores, accuracy, evaluate, nll
from shapeshift.superweights.anytime import best_order
from tests.families import averages, build, images, labelled


def test_the_order_is_the_best_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (60,), generator=generator)
    right = F.one_hot(labels, 4) * torch.tensor([1.0, 1.8, 1.4, 2.5])[:, None, None]
    probabilities = (right + torch.randn(4, 60, 4, generator=generator)).softmax(2)
    costs = [10, 25, 12, 60]

    def area(order: Sequence[int]) -> float:
        before = [math.log(4)] + [nll(probabilities[list(order[:count])].mean(0), labels) for count in range(1, 4)]
        return sum(loss * costs[index] for loss, index in zip(before, order, strict=True))

    best = best_order(probabilities, labels, costs)
    assert sorted(best) == [0, 1, 2, 3]
    assert area(best) == pytest.approx(min(map(area, itertools.permutations(range(4)))))
    with pytest.raises(shapeshift.ConfigError, match="up to 12 members, not 13"):
        best_order(probabilities[:1].expand(13, -1, -1), labels, [1] * 13)


def test_the_order_is_chosen_on_the_data_that_it_is_given() -> None:
    family = build()
    data = [(x, torch.full((len(x),), 2)) for x, _ in labelled()]
    with torch.no_grad():
        for index, member in enumerate(family.members):
            member.head.bias[2] += 4 * (index == 1)  # the one that is right
    order = family.choose_order(data)
    assert order[0] == 1
    assert family.order.tolist() == order


def test_an_evaluation_measures_each_member_and_each_prefix(tmp_path: Path) -> None:
    family = build()
    family.order.copy_(torch.tensor([3, 1, 0, 2]))
    data = labelled()
    found = evaluate(family, data)
    x, y = (torch.cat(part) for part in zip(*data, strict=True))
    expected = averages(family, x)
    macs = family.count_macs(x)
    assert [scores.macs for scores in found.members] == macs
    assert [scores.macs for scores in found.curve] == list(itertools.accumulate(macs[index] for index in (3, 1, 0, 2)))
    for scores, probabilities in zip(found.curve, expected, strict=True):
        assert scores.nll == pytest.approx(nll(probabilities, y), rel=1e-4)
        assert scores.top1 == accuracy(probabilities, y)
    assert found.ensemble == found.curve[-1]
    assert found.parameters == shapeshift.count_parameters(family)
    assert found.samples == 24
    assert Scores(**json.loads(json.dumps(found.as_dict()))["curve"][0]) == found.curve[0]
    assert "first 4" in str(found)
    assert f"{found.parameters:,} parameters" in str(found)
    for metric in ("top1", "nll", "ece"):
        found.plot(tmp_path / f"{metric}.png", metric)
        assert (tmp_path / f"{metric}.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(shapeshift.ConfigError, match="metric must be one of top1, nll, ece"):
        found.plot(tmp_path / "none.png", "top5")
    one = evaluate(Family([WideResNet(10, 0.25)]), data)
    assert isinstance(one, Evaluation)
    assert math.isnan(one.disagreement)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "the loader is empty"),
        ([images()], "has to yield \\(x, y\\)"),
        ([{"x": images()}], "found none in a dict"),
        ([(images(), torch.zeros(4))], "found a \\(4,\\) tensor of torch.float32"),
    ],
    ids=["empty", "no labels", "dict", "floats"],
)
def test_data_without_labels_is_refused(data: list[Any], message: str) -> None:
    with pytest.raises(shapeshift.DataError, match=message):
        evaluate(build(budget=None), data)


def test_dicts_with_labels_are_data_too() -> None:
    family = build("transformers")
    batch = {"pixel_values": images(), "labels": torch.tensor([0, 1, 2, 3])}
    tuples = [(images(), torch.tensor([0, 1, 2, 3]))]
    assert evaluate(family, [batch]).ensemble == evaluate(family, tuples).ensemble
