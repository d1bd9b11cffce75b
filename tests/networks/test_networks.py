"""The networks of the papers, and the reduced baseline."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import shapeshift
from benchmarks.baselines.reduced import FAMILIES, reduced
from shapeshift.networks.densenet import DenseNet
from shapeshift.networks.googlenet import GoogLeNet
from shapeshift.networks.reduced import reduce_width, scaled_width
from shapeshift.networks.resnet import PaddedShortcut, ResNet
from shapeshift.networks.vgg import VGG
from shapeshift.networks.wide_resnet import WideResNet
from tests.models import gradients
from tests.tolerances import assert_close

# Every kind of network, small.
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "WideResNet": partial(WideResNet, 10, 0.5, dropout=0.3),
    "ResNet": partial(ResNet, 8, 0.5),
    "ResNet, projection": partial(ResNet, 8, 0.5, projection=True),
    "DenseNet": partial(DenseNet, 13, 4.5),
    "DenseNet-BC": partial(DenseNet, 16, 4, stem=8, bottleneck=True, compression=0.5),
    "VGG": partial(VGG, 11, 0.125),
    "GoogLeNet": partial(GoogLeNet, 0.125),
}
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


def densenet_bc(depth: int, growth: int) -> DenseNet:
    return DenseNet(depth, growth, stem=2 * growth, bottleneck=True, compression=0.5)


@pytest.mark.parametrize(
    ("build", "millions", "digits"),
    [
        # Zagoruyko and Komodakis 2016, table 4
        (partial(WideResNet, 28, 10), 36.5, 1),
        (partial(WideResNet, 16, 8), 11.0, 1),
        (partial(WideResNet, 40, 4), 8.9, 1),
        # He et al. 2016, table 6
        (partial(ResNet, 20), 0.27, 2),
        (partial(ResNet, 32), 0.46, 2),
        (partial(ResNet, 44), 0.66, 2),
        (partial(ResNet, 56), 0.85, 2),
        (partial(ResNet, 110), 1.7, 1),
        # Huang et al. 2017, table 2
        (partial(DenseNet, 40, 12), 1.0, 1),
        (partial(DenseNet, 100, 12), 7.0, 1),
        (partial(DenseNet, 100, 24), 27.2, 1),
        (partial(densenet_bc, 100, 12), 0.8, 1),
        (partial(densenet_bc, 250, 24), 15.3, 1),
        (partial(densenet_bc, 190, 40), 25.6, 1),
        # Simonyan and Zisserman 2015, table 1, column D, with the head of 512 x 10
        (partial(VGG, 16), 14.7, 1),
        # Lin et al. 2020 (HRank), which has 6.15
        (GoogLeNet, 6.2, 1),
    ],
)
def test_networks_have_the_parameters_of_the_papers(
    build: Callable[[], nn.Module], millions: float, digits: int
) -> None:
    with torch.device("meta"):
        network = build()
    assert round(shapeshift.count_parameters(network) / 1e6, digits) == millions


@pytest.mark.parametrize("side", [8, 32])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_classify_images_of_any_side(name: str, side: int) -> None:
    network = NETWORKS[name](num_classes=7, in_channels=1)
    assert network(torch.randn(2, 1, side, side)).shape == (2, 7)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (partial(ResNet, 56), {"stages.0": (16, 32), "stages.1": (32, 16), "stages.2": (64, 8)}),
        (
            partial(DenseNet, 40, 12),
            {
                "features.block1": (160, 32),
                "features.transition1": (160, 32),
                "features.block2": (304, 16),
                "features.block3": (448, 8),
            },
        ),
        (partial(densenet_bc, 100, 12), {"features.block1": (216, 32), "features.pool1": (108, 16)}),
        (
            VGG,
            {
                "stages.0": (64, 16),
                "stages.1": (128, 8),
                "stages.2": (256, 4),
                "stages.3": (512, 2),
                "stages.4": (512, 1),
            },
        ),
        (GoogLeNet, {"stem": (192, 32), "stages.0": (480, 32), "stages.1": (832, 16), "stages.2": (1024, 8)}),
    ],
)
def test_features_have_the_channels_and_sides_of_the_papers(
    build: Callable[[], nn.Module], expected: dict[str, tuple[int, int]]
) -> None:
    found = {}
    with torch.device("meta"):
        network = build()
        for name in expected:
            network.get_submodule(name).register_forward_hook(
                lambda module, inputs, output, name=name: found.update({name: (output.shape[1], output.shape[2])})
            )
        network(torch.empty(2, 3, 32, 32))
    assert found == expected


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_reaches_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    found = gradients(network, (torch.randn(8, 3, 16, 16),))
    assert [key for key, _ in network.named_parameters() if key not in found or not found[key].any()] == []


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "WideResNet"])
def test_what_enters_a_relu_can_be_tapped(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    tapped: dict[str, list[Tensor]] = {}
    for key, module in network.named_modules():
        if isinstance(module, nn.ReLU):
            tapped[key] = []
            module.register_forward_pre_hook(lambda module, inputs, key=key: tapped[key].append(inputs[0]))
    network(torch.randn(4, 3, 16, 16))
    # One use of each, and the negative values still there when the forward pass is over.
    assert [key for key, inputs in tapped.items() if len(inputs) != 1 or not (inputs[0] < 0).any()] == []
    assert len(tapped) >= 7


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_compress_and_materialize(name: str) -> None:
    network = NETWORKS[name]().eval()
    keys, count = set(network.state_dict()), shapeshift.count_parameters(network)
    x = torch.randn(2, 3, 16, 16)
    shapeshift.compress(network, "50%")
    assert shapeshift.count_parameters(network) <= count // 2
    with torch.no_grad():
        expected = network(x)
        shapeshift.materialize(network)
        assert_close(network(x), expected, "identical")
    assert set(network.state_dict()) == keys


def test_a_padded_shortcut_keeps_every_second_pixel_and_adds_zeros() -> None:
    x = torch.randn(2, 3, 6, 6)
    padded = PaddedShortcut(extra_channels=2, stride=2)(x)
    assert_close(padded[:, :3], x[:, :, ::2, ::2], "identical")
    assert_close(padded[:, 3:], torch.zeros(2, 2, 3, 3), "identical")


@pytest.mark.parametrize("growth", [1, 1.5, 4.75, 12])
def test_a_growth_that_is_a_fraction_is_met_on_average(growth: float) -> None:
    with torch.device("meta"):
        network = DenseNet(40, growth)
    appended = [
        layer.new[-1].conv.out_channels
        for block in ("block1", "block2", "block3")
        for layer in network.features.get_submodule(block)
    ]
    assert len(appended) == 36
    assert sum(appended) == 36 * growth
    assert appended == sorted(appended)
    assert appended[-1] - appended[0] == (0 if growth == int(growth) else 1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: WideResNet(15, 1), r"6n \+ 4.*not 15"),
        (lambda: WideResNet(4, 1), r"6n \+ 4.*not 4"),
        (lambda: ResNet(16), r"6n \+ 2.*not 16"),
        (lambda: ResNet(2), r"6n \+ 2.*not 2"),
        (lambda: DenseNet(41, 12), r"without a bottleneck is 3n \+ 4.*not 41"),
        (lambda: DenseNet(4, 12), r"3n \+ 4.*not 4"),
        (lambda: DenseNet(43, 12, bottleneck=True), r"with a bottleneck is 6n \+ 4.*not 43"),
        (lambda: DenseNet(40, 0.5), r"at least one channel per layer, not 0\.5"),
        (lambda: DenseNet(40, 12, compression=1.5), r"in \(0, 1\], not 1\.5"),
        (lambda: VGG(12), r"11, 13, 16 or 19, not 12"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(shapeshift.ConfigError, match=message):
        build()


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
