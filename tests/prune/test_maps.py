"""The maps of each layer: after its norm, its activation and the sum of its block."""

from __future__ import annotations

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift import prune
from shapeshift.networks.densenet import DenseNet
from shapeshift.networks.googlenet import GoogLeNet
from shapeshift.networks.vgg import VGG
from shapeshift.networks.wide_resnet import WideResNet
from shapeshift.prune.ranks import matrix_ranks
from tests.prunable import Twice, block, images, livened, small_resnet, taken
from tests.tolerances import assert_close


def test_maps_are_taken_after_norm_and_activation() -> None:
    model, x = livened(VGG(11, 0.125)), images(64)
    ranks = taken(model, x)
    blocks = [name.removesuffix(".conv") for name in ranks]
    assert len(blocks) == 8
    for path, expected in taken(model, x, blocks).items():
        assert torch.equal(ranks[f"{path}.conv"], expected)


def test_maps_of_a_residual_block_are_taken_after_its_sum() -> None:
    model, x = livened(small_resnet()), images()
    ranks = taken(model, x)
    assert list(ranks) == ["stem", *(f"stages.{stage}.0.conv{conv}" for stage in range(3) for conv in (1, 2))]
    for path, expected in taken(model, x, [f"stages.{stage}.0" for stage in range(3)]).items():
        assert torch.equal(ranks[f"{path}.conv2"], expected)
    for path, expected in taken(model, x, [f"stages.{stage}.0.relu1" for stage in range(3)]).items():
        assert torch.equal(ranks[f"{path.removesuffix('.relu1')}.conv1"], expected)
    # A projection has the maps of the block, too, and is measured when it is asked for.
    assert torch.equal(taken(model, x, ["stages.1.0.shortcut"])["stages.1.0.shortcut"], ranks["stages.1.0.conv2"])


def test_maps_of_a_dense_layer_are_taken_after_the_next_activation() -> None:
    model, x = livened(DenseNet(10, 6)), images()
    ranks = taken(model, x)
    assert len(ranks) == 9
    following = taken(model, x, ["features.block1.1.new.0.relu", "features.transition1.relu"])
    assert torch.equal(ranks["features.block1.0.new.0.conv"], following["features.block1.1.new.0.relu"][-6:])
    assert torch.equal(ranks["features.block1.1.new.0.conv"], following["features.transition1.relu"][-6:])
    assert torch.equal(ranks["features.stem"], taken(model, x, ["features.block1.0.new.0.relu"]).popitem()[1])


def test_maps_of_an_inception_module_are_its_output() -> None:
    model, x = livened(GoogLeNet(0.0625)), images()
    ranks = taken(model, x)
    assert len(ranks) == 64
    ends = ("branch1", "branch3.1", "branch5.2", "branch_pool.1")
    parts = torch.cat([ranks[f"stages.1.2.{end}.conv"] for end in ends])
    assert torch.equal(parts, taken(model, x, ["stages.1.2"])["stages.1.2"])


def test_a_layer_that_is_called_twice_has_the_maps_of_both_calls() -> None:
    model, x = block(Twice()), images(8)
    ranks = taken(model, x)
    layer, start = model.middle.layer, model.before(x).relu()
    with torch.no_grad():
        first = layer(start).relu()
        both = torch.cat([first, layer(first).relu()])
    assert_close(ranks["middle.layer"], matrix_ranks(both).float().mean(0), "reordered")


def test_maps_follow_functions_and_pre_activations() -> None:
    model, x = livened(WideResNet(10, 0.5)), images()
    ranks = taken(model, x)
    seen: dict[str, Tensor] = {}
    # Calls torch.relu where the model calls it, and so sees what the first one in each block gives.
    x1 = F.relu(model.blocks[0].norm1(model.stem(x)))
    seen["stem"] = matrix_ranks(x1.detach()).float().mean(0)
    seen["blocks.0.conv1"] = (
        matrix_ranks(F.relu(model.blocks[0].norm2(model.blocks[0].conv1(x1))).detach()).float().mean(0)
    )
    for layer, expected in seen.items():
        assert_close(ranks[layer], expected, "reordered")


def test_maps_of_tokens_lie_on_the_grid_of_the_patches() -> None:
    model, x = timm.create_model("test_vit").eval(), images(160)
    (layer,) = [name for name, _ in model.named_modules() if name == "blocks.0.mlp.fc1"]
    ranks = taken(model, x, [layer])[layer]
    caught: list[Tensor] = []
    model.blocks[0].mlp.act.register_forward_hook(lambda module, args, output: caught.append(output))
    with torch.no_grad():
        model(x)
    side = 160 // model.patch_embed.patch_size[0]
    maps = caught[0][:, -side * side :].mT.unflatten(2, (side, side))
    assert_close(ranks, matrix_ranks(maps).float().mean(0), "reordered")


def test_maps_with_their_channels_last_are_ranked_by_channel() -> None:
    class Last(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.permute(0, 2, 3, 1).contiguous()

    found = prune.feature_ranks(nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), Last()), [images(8)], ["1"])
    assert found["1"].shape == (12,)


def test_maps_as_high_as_there_are_channels_are_not_taken_for_rows() -> None:
    model = timm.create_model("resnet10t", num_classes=4)
    ranks = prune.feature_ranks(model, [torch.randn(1, 3, 256, 128)], ["layer1.0", "layer1.0.conv1"], progress=False)
    assert {name: len(found) for name, found in ranks.items()} == {"layer1.0": 64, "layer1.0.conv1": 64}
