"""The networks of the papers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import shapeshift
from shapeshift.networks.densenet import DenseNet
from shapeshift.networks.googlenet import GoogLeNet
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
