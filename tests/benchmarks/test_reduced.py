"""The reduced baseline: the widest network of a family within a budget."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import shapeshift
from benchmarks.baselines.reduced import FAMILIES, reduced
from shapeshift.networks.reduced import reduce_width, scaled_width
from shapeshift.networks.resnet import ResNet

# What the full network of each family is built with, small.
FULL: dict[str, dict[str, Any]] = {
    "wide_resnet": {"depth": 10, "width": 2},
    "resnet": {"depth": 8},
    "densenet": {"depth": 10, "growth": 6},
    "vgg": {"depth": 11, "width": 0.25},
    "googlenet": {"width": 0.25},
    "vit": {"img_size": 8, "patch_size": 4, "embed_dim": 48, "num_heads": 3, "depth": 1},
    "bert": {
        "hidden_size": 48,
        "num_attention_heads": 3,
        "intermediate_size": 192,
        "num_hidden_layers": 1,
        "vocab_size": 100,
    },
}


@functools.cache
def size(family: str, factor: float) -> int:
    """Count the parameters of a small network of a family at a factor."""
    with torch.device("meta"):
        return shapeshift.count_parameters(FAMILIES[family](factor, **FULL[family]))


def test_every_family_is_tested() -> None:
    assert set(FULL) == set(FAMILIES)


@pytest.mark.parametrize("family", FULL)
@settings(max_examples=3, deadline=None)
@given(share=st.floats(0, 1))
def test_the_reduced_network_meets_the_budget_and_the_next_wider_one_does_not(family: str, share: float) -> None:
    least, most = size(family, 1e-6), size(family, 1.0)
    budget = least + int(share * (most - least))
    factors = []

    def build(factor: float) -> nn.Module:
        factors.append(factor)
        return FAMILIES[family](factor, **FULL[family])

    count = shapeshift.count_parameters(reduce_width(build, budget))
    assert count == size(family, factors[-1]) <= budget
    # Closer than two roundings of these widths can be.
    assert factors[-1] == 1.0 or size(family, min(1.0, factors[-1] + 1e-6)) > budget


@pytest.mark.parametrize("family", FULL)
@settings(max_examples=10, deadline=None)
@given(factors=st.tuples(st.floats(1e-6, 1), st.floats(1e-6, 1)))
def test_a_wider_network_is_never_smaller(family: str, factors: tuple[float, float]) -> None:
    assert size(family, min(factors)) <= size(family, max(factors))


@settings(max_examples=10, deadline=None)
@given(budget=st.integers(1_000, 100_000))
def test_no_network_of_the_family_is_closer_to_the_budget(budget: int) -> None:
    # Widths of 16, 32 and 64 round at odd multiples of 1/32, 1/64 and 1/128: between those, every network there is.
    sizes = [size("resnet", (2 * piece + 1) / 256) for piece in range(128)]
    found = shapeshift.count_parameters(reduced("resnet", budget, **FULL["resnet"]))
    assert found == max(count for count in sizes if count <= budget)


def test_only_the_network_that_is_returned_takes_memory() -> None:
    devices = []

    def build(factor: float) -> nn.Module:
        network = ResNet(8, factor)
        devices.append(network.stem.weight.device.type)
        return network

    network = reduce_width(build, 10_000)
    assert set(devices[:-1]) == {"meta"}
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(1e-6, 1))
def test_transformers_scale_their_heads_and_their_hidden_width(factor: float) -> None:
    with torch.device("meta"):
        vit = FAMILIES["vit"](factor, **FULL["vit"])
        bert = FAMILIES["bert"](factor, **FULL["bert"])
    head = scaled_width(16, factor)
    assert (vit.blocks[0].attn.num_heads, vit.blocks[0].attn.head_dim, vit.embed_dim) == (3, head, 3 * head)
    assert (bert.config.num_attention_heads, bert.config.hidden_size) == (3, 3 * head)
    assert vit.blocks[0].mlp.fc1.out_features == bert.config.intermediate_size == scaled_width(192, factor)


def test_reduced_transformers_run() -> None:
    vit = reduced("vit", 20_000, **FULL["vit"], num_classes=7)
    assert vit(torch.randn(2, 3, 8, 8)).shape == (2, 7)
    bert = reduced("bert", 40_000, **FULL["bert"])
    tokens = torch.randint(100, (2, 5))
    assert bert(tokens).last_hidden_state.shape == (2, 5, bert.config.hidden_size)


def test_a_budget_below_the_thinnest_network_is_refused_with_its_size() -> None:
    least = size("resnet", 1e-6)
    with pytest.raises(shapeshift.BudgetError, match=f"budget of 10 parameters: the thinnest network has {least:,}"):
        reduced("resnet", 10, **FULL["resnet"])


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(
        shapeshift.ConfigError, match="unknown family of networks 'lenet'; choose one of: bert, densenet"
    ):
        reduced("lenet", 10)
