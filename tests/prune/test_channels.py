"""The channels that depend on a filter, followed through the operations of a model."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import shapeshift
from shapeshift import prune
from shapeshift.networks.resnet import ResNet
from tests.prunable import Padded, Twice, block, images, kept_channels, livened, taken
from tests.tolerances import assert_close


class Gated(nn.Module):
    """Multiplies channels with gates that are computed from them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(12, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()


class ChannelsLast(nn.Module):
    """Linear layers on maps with the channels last, and a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(12, 24), nn.Linear(24, 12)
        self.scale = nn.Parameter(torch.rand(12))

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.scale * self.down(F.gelu(self.up(x.permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)


class Scaled(nn.Conv2d):
    """A convolution with a parameter that convolutions do not have."""

    def __init__(self, *arguments: int) -> None:
        super().__init__(*arguments)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.gain, self.bias)


STRUCTURES = {
    "plain": lambda: block(),
    "depthwise": lambda: block(nn.Conv2d(12, 12, 3, groups=12)),
    "depthwise, two filters each": lambda: block(nn.Conv2d(12, 24, 3, groups=12)),
    "many groups": lambda: block(nn.Conv2d(12, 24, 3, groups=6)),
    "few groups": lambda: block(nn.Conv2d(12, 6, 3, groups=2)),
    "transposed": lambda: block(nn.ConvTranspose2d(12, 8, 2, stride=2)),
    "batch norm": lambda: block(nn.BatchNorm2d(12)),
    "PReLU": lambda: block(nn.PReLU(12)),
    "one PReLU": lambda: block(nn.PReLU()),
    "gates": lambda: block(Gated()),
    "channels last": lambda: block(ChannelsLast()),
    "pooling": lambda: block(nn.MaxPool2d(2)),
    "upsampling": lambda: block(nn.Upsample(scale_factor=2)),
    "called twice": lambda: block(Twice()),
    "flattened maps": lambda: livened(
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 4))
    ),
    "frozen": lambda: block(nn.BatchNorm2d(12)).requires_grad_(False),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_removing_equals_masking(name: str) -> None:
    model, x = STRUCTURES[name](), images(8)
    ranks = {layer: torch.rand_like(found) for layer, found in taken(model, x).items()}
    pruned = prune.hrank(model, [x], 0.5, ranks=ranks)
    masked = prune.hrank(model, [x], 0.5, ranks=ranks, mask=True)
    assert shapeshift.count_parameters(pruned.requires_grad_()) < 0.7 * sum(p.numel() for p in model.parameters())
    assert [p.shape for p in masked.parameters()] == [p.shape for p in model.parameters()]
    assert not torch.allclose(masked(x), model(x))
    assert_close(pruned(x), masked(x), "reordered")


def test_groups_get_smaller_or_fewer_whichever_leaves_more_choice() -> None:
    x = images(8)
    few = prune.hrank(STRUCTURES["few groups"](), [x], 0.5, progress=False).middle
    many = prune.hrank(STRUCTURES["many groups"](), [x], 0.5, progress=False).middle
    assert (few.groups, few.in_channels, few.out_channels, few.weight.shape[1]) == (2, 6, 4, 3)
    assert (many.groups, many.in_channels, many.out_channels, many.weight.shape[1]) == (3, 6, 12, 2)


def test_removing_differs_from_masking_where_a_norm_sees_all_channels() -> None:
    model, x = block(nn.GroupNorm(3, 12)), images(8)
    pruned = prune.hrank(model, [x], {"before": 0.5}, progress=False)
    masked = prune.hrank(model, [x], {"before": 0.5}, progress=False, mask=True)
    assert (pruned.middle.num_groups, pruned.middle.num_channels) == (3, 6)
    # The masked channels are zeros that the statistics of their group still count.
    assert not torch.allclose(pruned(x), masked(x), rtol=1e-2)


def shuffled(x: Tensor) -> Tensor:
    return x.unflatten(1, (3, 4)).transpose(1, 2).flatten(1, 2)


def halves(x: Tensor) -> Tensor:
    first, second = x.chunk(2, 1)
    return torch.cat([second, first], 1)


def grouped(x: Tensor) -> Tensor:
    """Reverse the channels of each of three groups, as code does that takes groups for images."""
    return x.reshape(-1, 4, *x.shape[2:]).flip(1).reshape(x.shape)


OBSTACLES = {
    "shuffle": (lambda: block(None, shuffled), "may mix them"),
    "groups as images": (lambda: block(None, grouped), "may mix them"),
    "slice": (lambda: block(None, lambda x: x[:, 4:]), "may mix them"),
    "split": (lambda: block(None, halves), "may mix them"),
    "softmax": (lambda: block(nn.Softmax(1)), "may mix them"),
    "padding": (lambda: block(None, lambda x: F.pad(x, (0, 0, 0, 0, 0, 4))), "may mix them"),
    "parametrized": (lambda: block(nn.utils.parametrizations.weight_norm(nn.Conv2d(12, 12, 1))), "may mix them"),
    "unknown layer": (lambda: block(Scaled(12, 12, 1)), "a Scaled whose channels are not known"),
    "attention": (lambda: block(None, lambda x: F.scaled_dot_product_attention(x, x, x)), "may mix them"),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_what_cannot_be_followed_stays_whole(name: str) -> None:
    build, reason = OBSTACLES[name]
    model, x = build(), images(8)
    pruned = prune.hrank(model, [x], 0.5, progress=False)
    kept = kept_channels(pruned)
    assert len(kept["before"]) == 12
    assert len(kept["after"]) == 3
    assert_close(pruned(x), prune.hrank(model, [x], 0.5, progress=False, mask=True)(x), "reordered")
    with pytest.raises(shapeshift.ConfigError, match=f"before has to stay whole.*{reason}"):
        prune.hrank(model, [x], {"before": 0.5}, progress=False)


def test_padded_shortcuts_keep_their_stream_whole() -> None:
    model, x = livened(ResNet(8)), images()
    kept = kept_channels(prune.hrank(model, [x], 0.5, progress=False))
    assert [len(kept[f"stages.{stage}.0.conv1"]) for stage in range(3)] == [8, 16, 32]
    assert [len(kept[f"stages.{stage}.0.conv2"]) for stage in range(3)] == [16, 32, 64]


def test_layers_that_share_a_weight_stay_whole() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU())
    model.extend([nn.Conv2d(8, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)])
    model[4].weight = model[2].weight
    pruned = prune.hrank(model, [images(8)], 0.5, progress=False)
    assert [len(channels) for channels in kept_channels(pruned).values()] == [8, 8, 8, 2, 2]
    assert pruned[4].weight is pruned[2].weight


def test_padding_of_rows_and_columns_keeps_filters_apart() -> None:
    x = torch.randn(4, 3, 8, 8)
    pruned = prune.hrank(Padded(), [x], 0.5, progress=False)
    assert (pruned.first.out_channels, pruned.second.out_channels, pruned.head.in_features) == (4, 4, 4)
    assert pruned(x).shape == (4, 4)
