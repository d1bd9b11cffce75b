"""Pruning by the ranks of feature maps: the ranks, the smaller and the masked models, their rates, and checkpoints."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

import shapeshift
from benchmarks.feature_ranks import main as feature_ranks_benchmark
from shapeshift import prune
from shapeshift.networks.densenet import DenseNet
from shapeshift.networks.googlenet import GoogLeNet
from shapeshift.networks.resnet import ResNet
from shapeshift.networks.vgg import VGG
from shapeshift.networks.wide_resnet import WideResNet
from shapeshift.prune.ranks import matrix_ranks
from shapeshift.running.batches import Inputs
from shapeshift.running.macs import count_macs
from tests.tolerances import assert_close


def images(size: int = 32, count: int = 2) -> Tensor:
    return torch.randn(count, 3, size, size)


def small_resnet() -> ResNet:
    return ResNet(8, projection=True)


def livened(model: nn.Module) -> nn.Module:
    """Give norms statistics and scales that a trained model could have, so that no term of them drops out."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def rank_by_definition(matrix: Tensor) -> int:
    values = torch.linalg.svdvals(matrix.double())
    return int((values > values[0] * max(matrix.shape) * torch.finfo(torch.float32).eps).sum())


MATRICES = {
    "full": lambda: torch.randn(20, 8, 8),
    "rectified": lambda: torch.randn(40, 16, 16).sub(0.5).relu(),
    "of few rows": lambda: torch.randn(20, 3, 11),
    "of few columns": lambda: torch.randn(20, 11, 3),
    "products": lambda: torch.randn(20, 12, 5) @ torch.randn(20, 5, 12),
    "smooth": lambda: F.interpolate(torch.randn(20, 1, 4, 4), size=(16, 16), mode="bilinear")[:, 0],
    "with empty rows": lambda: torch.randn(20, 9, 9) * (torch.rand(20, 9, 1) > 0.4),
    "with empty columns": lambda: torch.randn(20, 9, 9) * (torch.rand(20, 1, 9) > 0.4),
    "empty": lambda: torch.zeros(3, 6, 6),
    "pixels": lambda: torch.tensor([0.0, 2.0]).view(2, 1, 1),
    "large and small": lambda: torch.randn(20, 7, 7) * torch.logspace(-15, 15, 20).view(20, 1, 1),
    "near the threshold": lambda: torch.diag_embed(torch.tensor([[1.0, 5e-7, 5e-7], [1.0, 2e-7, 2e-7]])),
    "half": lambda: torch.randn(20, 8, 8).bfloat16(),
    "double": lambda: torch.randn(20, 8, 8).double(),
}


@pytest.mark.parametrize("kind", MATRICES)
def test_ranks_are_those_of_the_definition(kind: str) -> None:
    matrices = MATRICES[kind]()
    assert matrix_ranks(matrices).tolist() == [rank_by_definition(matrix) for matrix in matrices]


def test_a_matrix_that_is_not_finite_has_no_rank() -> None:
    matrices = torch.eye(4).repeat(3, 1, 1)
    matrices[0, 1, 2], matrices[2, 0, 0] = torch.nan, torch.inf
    assert matrix_ranks(matrices).tolist() == [-1, 4, -1]


def test_ranks_keep_the_leading_shape_and_take_none() -> None:
    assert matrix_ranks(torch.randn(2, 3, 4, 5)).shape == (2, 3)
    assert matrix_ranks(torch.zeros(0, 3, 4, 4)).shape == (0, 3)


def test_ranks_work_on_a_bounded_number_of_maps_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    factorize = torch.linalg.cholesky_ex

    def counting(matrices: Tensor) -> Any:
        sizes.append(matrices.numel())
        return factorize(matrices)

    monkeypatch.setattr(torch.linalg, "cholesky_ex", counting)
    for shape in ((40, 64, 16, 16), (3, 4000, 16, 16), (5000, 16, 16)):
        sizes.clear()
        assert torch.equal(matrix_ranks(torch.ones(shape)), torch.ones(shape[:-2], dtype=torch.int64))
        assert sum(sizes) == torch.Size(shape).numel()
        assert max(sizes) <= 2**18
        assert len(sizes) > 1


def test_the_benchmark_finds_the_same_ranks_and_times_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "ranks.json"
    options = ["--images", "1", "--rounds", "1", "--networks", "DenseNet-40"]
    feature_ranks_benchmark([*options, "--output", str(output)])
    (row,) = json.loads(output.read_text())["rows"]
    assert (row["maps"], row["different"]) == (912, 0)
    assert min(row["batched"], row["loop"]) > 0
    assert output.with_suffix(".md").read_text() in capsys.readouterr().out


def test_ranks_stream_over_batches() -> None:
    model, x = small_resnet().eval(), images(16, 7)
    together = prune.feature_ranks(model, [x], progress=False)
    streamed = prune.feature_ranks(model, iter([x[:3], (x[3:4], None), (x[4:], torch.zeros(3))]), progress=False)
    assert list(together) == list(streamed)
    for layer, ranks in together.items():
        assert ranks.dtype == torch.float32
        assert_close(streamed[layer], ranks, "reordered")
        assert 0 < ranks.max() <= 16


def taken(model: nn.Module, x: Tensor, layers: list[str] | None = None) -> dict[str, Tensor]:
    return prune.feature_ranks(model, [x], layers, progress=False)


def test_maps_are_taken_after_norm_and_activation() -> None:
    model, x = livened(VGG(11, 0.125)), images(64)
    ranks = taken(model, x)
    blocks = [name.removesuffix(".conv") for name in ranks]
    assert len(blocks) == 8
    for block, expected in taken(model, x, blocks).items():
        assert torch.equal(ranks[f"{block}.conv"], expected)


def test_maps_of_a_residual_block_are_taken_after_its_sum() -> None:
    model, x = livened(small_resnet()), images()
    ranks = taken(model, x)
    assert list(ranks) == ["stem", *(f"stages.{stage}.0.conv{conv}" for stage in range(3) for conv in (1, 2))]
    for block, expected in taken(model, x, [f"stages.{stage}.0" for stage in range(3)]).items():
        assert torch.equal(ranks[f"{block}.conv2"], expected)
    for block, expected in taken(model, x, [f"stages.{stage}.0.relu1" for stage in range(3)]).items():
        assert torch.equal(ranks[f"{block.removesuffix('.relu1')}.conv1"], expected)
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


def test_a_model_is_left_as_it_was() -> None:
    model = small_resnet().train()
    model.stages[1].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    before = state_of(model)
    ranks = prune.feature_ranks(model, [images()], progress=False)
    prune.hrank(model, [images()], 0.4, ranks=ranks)
    prune.hrank(model, [images()], 0.4, ranks=ranks, mask=True)
    prune.rate_for(model, [images()], macs=0.5)
    assert {name: module.training for name, module in model.named_modules()} == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_the_pruned_copy_keeps_modes_and_frozen_parameters() -> None:
    model = small_resnet().train()
    model.stem.weight.requires_grad_(False)
    model.stages[2].eval()
    pruned = prune.hrank(model, [images()], progress=False)
    assert [m.training for m in pruned.modules()] == [m.training for m in model.modules()]
    frozen = [name for name, parameter in pruned.named_parameters() if not parameter.requires_grad]
    assert frozen == ["stem.weight"]
    assert pruned.stem.weight.shape == (8, 3, 3, 3)


def test_a_progress_bar_is_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    model = small_resnet()
    prune.feature_ranks(model, [images(), images()])
    assert "feature ranks: 100%" in capsys.readouterr().err
    prune.feature_ranks(model, [images()], progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("package", "extra", "call"),
    [("tqdm", "progress", prune.feature_ranks), ("torch_pruning", "prune", prune.hrank)],
)
def test_a_missing_package_is_named(
    package: str, extra: str, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(shapeshift.MissingExtraError, match=rf"shapeshift\[{extra}\]"):
        call(small_resnet(), [images()])
    assert len(prune.feature_ranks(small_resnet(), [images()], progress=False)) == 7


def timm_model(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=7, **options)


# How to build each, the side of its images, and whether removing equals masking. It does not where a layer norm takes
# its statistics over the channels that are removed.
ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], int, bool]] = {
    "VGG-16": (lambda: VGG(16, 0.25), 32, True),
    "ResNet-56": (lambda: ResNet(56, projection=True), 32, True),
    "ResNet-110": (lambda: ResNet(110, projection=True), 16, True),
    "DenseNet-40": (lambda: DenseNet(40, 12), 16, True),
    "DenseNet-BC": (lambda: DenseNet(22, 12, bottleneck=True, compression=0.5), 16, True),
    "GoogLeNet": (lambda: GoogLeNet(0.25), 16, True),
    "ResNet-50": (timm_model("resnet50"), 64, True),
    "MobileNetV3": (timm_model("mobilenetv3_small_050"), 64, True),
    "EfficientNet": (timm_model("test_efficientnet"), 64, True),
    "RegNet": (timm_model("regnety_002"), 64, True),
    "ConvNeXt": (timm_model("convnext_atto"), 64, False),
    "ViT": (timm_model("vit_tiny_patch16_224", img_size=64, depth=3), 64, False),
}


def layer_macs(model: nn.Module, x: Tensor) -> dict[str, int]:
    """Count the multiply-accumulates of each convolution and linear layer from its output's shape."""
    found: dict[str, int] = {}

    def hook(name: str) -> Callable[..., None]:
        def count(module: nn.Module, args: Any, output: Tensor) -> None:
            found[name] = found.get(name, 0) + output.numel() * module.weight[0].numel()

        return count

    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    handles = [module.register_forward_hook(hook(name)) for name, module in layers.items()]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_removing_filters(name: str, tmp_path: Path) -> None:
    build, side, exact = ARCHITECTURES[name]
    model, x = livened(build()), images(side)
    ranks = prune.feature_ranks(model, [x], progress=False)
    pruned = prune.hrank(model, [x], 0.4, ranks=ranks)
    masked = prune.hrank(model, [x], 0.4, ranks=ranks, mask=True)

    with torch.no_grad():
        outputs, full = pruned(x), model(x)
        assert outputs.shape == full.shape
        assert outputs.isfinite().all()
        assert not torch.allclose(outputs, full, rtol=1e-2)
        scale = full.abs().max()
        if exact:
            assert_close(outputs / scale, masked(x) / scale, "reordered")

    # A plain model of the same classes, smaller in every tensor that lost channels.
    assert [type(module) for module in pruned.modules()] == [type(module) for module in model.modules()]
    assert list(pruned.state_dict()) == list(model.state_dict())
    report = prune.report(pruned)
    assert report.parameters == shapeshift.count_parameters(pruned) < 0.8 * shapeshift.count_parameters(model)
    assert report.parameters_before == shapeshift.count_parameters(model)

    # The layers account for the difference: what is left are products of attention, which keeps its heads.
    before, after = layer_macs(model, x[:1]), layer_macs(pruned, x[:1])
    assert report.macs_before - report.macs == sum(before.values()) - sum(after.values())
    assert report.macs < 0.75 * report.macs_before
    kept = {layer.name: len(layer.kept) for layer in report.layers}
    for path, count in kept.items():
        assert len(pruned.get_submodule(path).weight) == count

    shapeshift.save(pruned, tmp_path)
    restored = shapeshift.load(tmp_path, build()).eval()
    assert torch.equal(restored(x), pruned(x))
    assert prune.report(restored) == report
    F.cross_entropy(pruned.train()(x), torch.tensor([0, 1])).backward()
    assert all(parameter.grad is not None for parameter in pruned.parameters())


def test_attention_keeps_its_heads() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2).eval()
    pruned = prune.hrank(model, [images()], 0.5, progress=False)
    for block in pruned.blocks:
        assert block.attn.qkv.weight.shape == (576, 96)
        assert block.attn.proj.weight.shape == (96, 192)
        assert (block.attn.num_heads, block.attn.head_dim) == (3, 64)
        assert block.mlp.fc1.weight.shape == (384, 96)
    assert pruned.pos_embed.shape == (1, 5, 96)
    with pytest.raises(shapeshift.ConfigError, match=r"blocks\.0\.attn\.qkv has to stay whole"):
        prune.hrank(model, [images()], {"blocks.0.attn.qkv": 0.5}, progress=False)


@pytest.mark.parametrize("masking", [False, True])
def test_batches_of_transformers(masking: bool) -> None:
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[2, 1], layer_type="basic", num_labels=3, num_channels=3
    )
    model = livened(ResNetForImageClassification(config))
    batch = {"pixel_values": images(), "labels": torch.tensor([0, 2])}
    pruned = prune.hrank(model, [batch], 0.5, progress=False, mask=masking)
    assert pruned(**batch).logits.shape == (2, 3)
    pruned.train()(**batch).loss.backward()
    if not masking:
        assert 0 < prune.report(pruned).macs < 0.5 * prune.report(pruned).macs_before


def test_a_transformer_of_transformers() -> None:
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8
    )
    model = ViTForImageClassification(config).eval()
    pruned = prune.hrank(model, [{"pixel_values": images()}], 0.5, progress=False)
    report = prune.report(pruned)
    assert {len(layer.kept) for layer in report.layers if layer.name.endswith("query")} <= {32}
    assert report.parameters < 0.6 * report.parameters_before
    assert pruned(images()).logits.isfinite().all()


def kept_channels(model: nn.Module) -> dict[str, list[int]]:
    return {layer.name: list(layer.kept) for layer in prune.report(model).layers}


def test_the_filters_of_lowest_rank_go() -> None:
    model, x = livened(VGG(11, 0.125)), images(64)
    ranks = prune.feature_ranks(model, [x], progress=False)
    rates = [0.95, 0.5, 0.29, 0.9, 0.0, 0.1, 0.8, 0.33]
    pruned = prune.hrank(model, [x], rates, ranks=ranks)
    kept, previous = kept_channels(pruned), "images"
    kept[previous] = [0, 1, 2]
    for (layer, scores), rate in zip(ranks.items(), rates, strict=True):
        order = sorted(range(len(scores)), key=lambda index: scores[index].item())
        assert kept[layer] == sorted(order[int(rate * len(scores)) :])
        weight, full = pruned.get_submodule(layer).weight, model.get_submodule(layer).weight
        assert torch.equal(weight, full[kept[layer]][:, kept[previous]])
        previous = layer
    assert pruned.head.in_features == len(kept[previous])


def test_layers_of_one_residual_stream_lose_the_same_filters() -> None:
    model, x = livened(ResNet(14, projection=True)), images()
    ranks = {layer: torch.rand_like(found) for layer, found in taken(model, x).items()}
    rates = dict.fromkeys(ranks, 0.0) | {"stages.1.0.conv2": 0.25, "stages.1.1.conv2": 0.5}
    kept = kept_channels(prune.hrank(model, [x], rates, ranks=ranks))
    mean = (ranks["stages.1.0.conv2"] + ranks["stages.1.1.conv2"]) / 2
    # The mean of their rates, 0.375 of 32 filters.
    expected = sorted(torch.argsort(mean)[12:].tolist())
    for layer in ("stages.1.0.conv2", "stages.1.0.shortcut", "stages.1.1.conv2"):
        assert kept[layer] == expected
    assert kept["stages.1.1.conv1"] == list(range(32))
    assert kept["stem"] == list(range(16))


def test_a_dict_of_rates_prunes_its_layers_alone() -> None:
    model, x = livened(small_resnet()), images()
    kept = kept_channels(prune.hrank(model, [x], {"stages.0.0.conv1": 0.5, "stem": 0.25}, progress=False))
    changed = {layer: len(channels) for layer, channels in kept.items() if len(channels) not in (32, 64, 10)}
    assert changed == {"stem": 12, "stages.0.0.conv1": 8, "stages.0.0.conv2": 12}


class Block(nn.Module):
    """Something between two convolutions of 12 channels."""

    def __init__(self, middle: nn.Module | None = None, function: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 12, 3, padding=1)
        self.middle = middle or nn.Identity()
        self.function = function
        self.after = nn.LazyConv2d(6, 1)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.after(self.function(self.middle(self.before(x).relu()))).relu()
        return self.head(x.mean((2, 3)))


def block(*arguments: Any) -> nn.Module:
    model = Block(*arguments)
    with torch.no_grad():
        model(images(8))
    return livened(model)


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


class Twice(nn.Module):
    """Calls one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(12, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x).relu()).relu()


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


def test_a_model_whose_code_relies_on_a_width_is_refused() -> None:
    model = block(None, lambda x: x.view(len(x), 12, 8, 8))
    with pytest.raises(shapeshift.ModelError, match=r"Block does not run without .* relies on a number of channels"):
        prune.hrank(model, [images(8)], 0.5, progress=False)
    # As its message says, the other layers can be pruned.
    assert len(kept_channels(prune.hrank(model, [images(8)], {"after": 0.5}, progress=False))["after"]) == 3


class TrainedAside(nn.Module):
    """A network with a second classifier that runs in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.next = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.head, self.aside = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        logits = self.head(self.next(x).relu()).mean((2, 3))
        return logits + self.aside(x).mean((2, 3)) if self.training else logits


def test_a_layer_that_runs_in_training_only_is_not_forgotten() -> None:
    model = TrainedAside()
    with pytest.raises(shapeshift.ModelError, match=r"TrainedAside does not train without .*run in training only"):
        prune.hrank(model, [images(8)], 0.5, progress=False)
    pruned = prune.hrank(model, [images(8)], {"next": 0.5}, progress=False)
    assert pruned.train()(images(8)).shape == (2, 4)


def test_multiply_accumulates_of_torchs_own_transformer_layers_are_counted() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    tokens, weights = 10, 4 * 32 * 32 + 2 * 32 * 64
    found = count_macs(layer, Inputs((torch.randn(1, tokens, 32),), {}))
    assert found == tokens * weights + 2 * tokens**2 * 32
    assert all(parameter.requires_grad for parameter in layer.parameters())
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_parameter_that_is_handed_to_a_submodule_does_not_stop_the_count() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.attend = nn.Parameter(torch.randn(1, 1, 16)), nn.MultiheadAttention(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.attend(self.query, x, x)[0]

    assert count_macs(Pooled(), Inputs((torch.randn(6, 1, 16),), {})) > 0


def test_maps_with_their_channels_last_are_ranked_by_channel() -> None:
    class Last(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.permute(0, 2, 3, 1).contiguous()

    found = prune.feature_ranks(nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), Last()), [images(8)], ["1"])
    assert found["1"].shape == (12,)


def test_a_model_that_would_give_other_outputs_is_refused() -> None:
    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.head = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.conv(x).relu()
            return self.head(x.mean((2, 3))), x.detach()

    with pytest.raises(shapeshift.ModelError, match=r"outputs of shape .*\(1, 4, 6, 6\).* instead of .*\(1, 8, 6, 6\)"):
        prune.hrank(Features(), [images(8)], 0.5, progress=False)


def momentum(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=1e-2)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"SGD": momentum, "AdamW": torch.optim.AdamW}


def zero_filters(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: module.weight.flatten(1).abs().sum(1) == 0
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    }


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), lambda model: model]
)
def test_masks_hold_in_training(optimizer: str, copied: Callable[[nn.Module], nn.Module]) -> None:
    x = images(16)
    masked = copied(prune.hrank(small_resnet(), [x], 0.5, progress=False, mask=True)).train()
    zeros = zero_filters(masked)
    assert [int(found.sum()) for found in zeros.values()] == [len(found) // 2 for found in zeros.values()]
    before = state_of(masked)
    stepping = OPTIMIZERS[optimizer](masked.parameters())
    for _ in range(3):
        stepping.zero_grad()
        F.cross_entropy(masked(x), torch.tensor([1, 2])).backward()
        stepping.step()
        for name, found in zero_filters(masked).items():
            assert torch.equal(found, zeros[name])
    assert not torch.equal(masked.stem.weight, before["stem.weight"])
    assert torch.equal(masked.norm.weight == 0, zeros["stem"])
    assert torch.equal(masked.norm.bias == 0, zeros["stem"])
    # The next layer's weights for a masked channel are left alone.
    assert (masked.stages[0][0].conv1.weight[~zeros["stages.0.0.conv1"]][:, zeros["stem"]] != 0).all()


def test_what_was_masked_can_be_removed() -> None:
    model, x = livened(small_resnet()), images()
    masked = prune.hrank(model, [x], 0.5, progress=False, mask=True).eval()
    assert prune.rate_for(masked, [x], macs=0.5) == prune.rate_for(model, [x], macs=0.5)
    pruned = prune.hrank(masked, [x], 0.5, progress=False)
    assert_close(pruned(x), masked(x), "reordered")
    assert torch.equal(pruned.stem.weight, masked.stem.weight[masked.stem.weight.flatten(1).any(1)])


def test_what_is_masked_is_removed_before_it_is_compressed() -> None:
    model, x = small_resnet(), images()
    masked = prune.hrank(model, [x], 0.5, progress=False, mask=True)
    before = state_of(masked)
    wrapped = nn.Sequential(masked)
    for refused in (masked, wrapped):
        for call in (lambda model: shapeshift.compress(model, "50%"), shapeshift.recurrence.soft_share):
            with pytest.raises(
                shapeshift.ModelError, match=r"ResNet\) has masked filters.*hrank\(model, loader, rate\) without mask"
            ):
                call(refused)
    with pytest.raises(shapeshift.ModelError, match=r"ResNet has masked filters.*keep its state_dict"):
        shapeshift.save(masked, "nowhere")
    assert_close(state_of(masked), before, "identical")
    pruned = prune.hrank(masked, [x], 0.5, progress=False)
    shapeshift.compress(pruned, "50%")
    assert pruned(x).isfinite().all()


def test_masks_return_after_values_were_loaded() -> None:
    model, x = livened(small_resnet()), images(16)
    masked = prune.hrank(model, [x], 0.5, progress=False, mask=True).eval()
    expected, zeros = masked(x), zero_filters(masked)
    masked.load_state_dict(model.state_dict())
    assert not zero_filters(masked)["stem"].any()
    assert torch.equal(masked(x), expected)
    assert torch.equal(zero_filters(masked)["stem"], zeros["stem"])


@pytest.mark.parametrize("target", [{"macs": 0.5}, {"params": "30%"}, {"params": 40_000}, {"macs": "4M"}], ids=str)
def test_rates_that_meet_a_target(target: dict[str, Any]) -> None:
    model, x = livened(ResNet(14, projection=True)), images()
    rates = prune.rate_for(model, [x], **target)
    assert list(rates) == list(prune.feature_ranks(model, [x], progress=False))
    report = prune.report(prune.hrank(model, [x], rates, progress=False))
    size, full = (
        (report.macs, report.macs_before) if "macs" in target else (report.parameters, report.parameters_before)
    )
    ((_, value),) = target.items()
    allowed = {0.5: full // 2, "30%": int(0.3 * full), "4M": 4_000_000}.get(value, value)
    assert 0.96 * allowed < size <= allowed
    # As equal as filters allow: no two rates further apart than one filter of the narrowest layers.
    assert max(rates.values()) - min(rates.values()) <= 1 / 16


def test_no_rate_is_needed_for_the_model_as_it_is() -> None:
    assert set(prune.rate_for(small_resnet(), [images()], params=1.0).values()) == {0.0}


REFUSED: dict[str, tuple[Callable[[nn.Module, Any], Any], type[Exception], str]] = {
    "rate of one": (lambda m, x: prune.hrank(m, x, 1.0), shapeshift.ConfigError, r"\[0, 1\), not 1.0"),
    "rate below zero": (lambda m, x: prune.hrank(m, x, -0.1), shapeshift.ConfigError, r"\[0, 1\), not -0.1"),
    "rate not a number": (lambda m, x: prune.hrank(m, x, float("nan")), shapeshift.ConfigError, r"\[0, 1\), not nan"),
    "rate a string": (lambda m, x: prune.hrank(m, x, "half"), shapeshift.ConfigError, r"\[0, 1\), not 'half'"),
    "rate in a list": (lambda m, x: prune.hrank(m, x, [0.5] * 6 + [2]), shapeshift.ConfigError, r"conv2.*not 2"),
    "list too short": (
        lambda m, x: prune.hrank(m, x, [0.5] * 3),
        shapeshift.ConfigError,
        "3 entries, and 7 layers.*stem",
    ),
    "unknown layer": (lambda m, x: prune.hrank(m, x, {"stam": 0.5}), shapeshift.ConfigError, "did you mean 'stem'"),
    "unknown name": (lambda m, x: prune.feature_ranks(m, x, ["stag"]), shapeshift.ConfigError, "did you mean 'stages'"),
    "names in a string": (lambda m, x: prune.feature_ranks(m, x, "stem"), shapeshift.ConfigError, "a list of names"),
    "no maps": (
        lambda m, x: prune.feature_ranks(m, x, ["head"]),
        shapeshift.ModelError,
        r"head \(Linear\) has no feature",
    ),
    "no image": (lambda m, x: prune.feature_ranks(m, []), shapeshift.DataError, "the loader is empty"),
    "no image to prune": (lambda m, x: prune.hrank(m, iter(())), shapeshift.DataError, "the loader is empty"),
    "no tensor": (lambda m, x: prune.hrank(m, ["images"]), shapeshift.DataError, "str, which holds no tensor"),
    "not finite": (
        lambda m, x: prune.hrank(m, [x[0] / 0]),
        shapeshift.ModelError,
        "stem hold values that are not finite",
    ),
    "ranks in a list": (
        lambda m, x: prune.hrank(m, x, ranks=[torch.ones(16)]),
        shapeshift.ConfigError,
        "ranks: give the dict",
    ),
    "ranks of another": (
        lambda m, x: prune.hrank(m, x, ranks={"stem": torch.ones(3)}),
        shapeshift.ConfigError,
        r"stem have the shape \(3,\), and the Conv2d has 16 filters",
    ),
    "two targets": (lambda m, x: prune.rate_for(m, x, macs=0.5, params=0.5), shapeshift.ConfigError, "one target"),
    "no target": (lambda m, x: prune.rate_for(m, x), shapeshift.ConfigError, "one target"),
    "target too low": (
        lambda m, x: prune.rate_for(m, x, params=5),
        shapeshift.BudgetError,
        "no rates leave 5 parameters",
    ),
    "not pruned": (lambda m, x: prune.report(m), shapeshift.ModelError, "ResNet is not pruned"),
    "nothing to save": (lambda m, x: shapeshift.save(m, "nowhere"), shapeshift.ModelError, "not compressed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_before_anything_is_changed(name: str) -> None:
    call, error, message = REFUSED[name]
    model = small_resnet().train()
    before = state_of(model)
    with pytest.raises(error, match=message):
        call(model, [images()])
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_without_filters_says_why() -> None:
    with pytest.raises(shapeshift.ModelError, match=r"no layer with feature maps"):
        prune.hrank(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), [images(8)], progress=False)
    with pytest.raises(shapeshift.ModelError, match=r"no filters that can be removed:\n  0: .* are the model's output"):
        prune.hrank(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), [images(8)], progress=False)


def test_the_order_of_the_paper() -> None:
    """Pretraining with more parameters than the model has, materializing, pruning, and training on."""
    x, labels = images(), torch.tensor([3, 4])
    model = shapeshift.compress(VGG(11, 0.125), "2x")
    for call in (prune.hrank, prune.feature_ranks):
        with pytest.raises(shapeshift.ModelError, match=r"Call shapeshift\.materialize\(model\) first"):
            call(model, [x])
    with pytest.raises(shapeshift.ModelError, match=r"materialize\(model\) first"):
        prune.rate_for(model, [x], macs=0.5)
    F.cross_entropy(model(x), labels).backward()
    pruned = prune.hrank(shapeshift.materialize(model), [x], 0.5, progress=False)
    optimizer = torch.optim.SGD(pruned.parameters(), 0.05)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        losses.append(F.cross_entropy(pruned(x), labels))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2
    assert prune.report(pruned).macs < 0.3 * prune.report(pruned).macs_before


def test_a_pruned_model_is_compressed_again(tmp_path: Path) -> None:
    model, x = livened(small_resnet()), images()
    pruned = prune.hrank(model, [x], 0.5, progress=False)
    compressed = shapeshift.compress(copy.deepcopy(pruned), "50%").eval()
    assert shapeshift.count_parameters(compressed) <= 0.5 * shapeshift.count_parameters(pruned)
    shapeshift.save(compressed, tmp_path)
    restored = shapeshift.load(tmp_path, small_resnet()).eval()
    assert shapeshift.is_compressed(restored)
    assert torch.equal(restored(x), compressed(x))
    assert prune.report(restored).macs == prune.report(pruned).macs
    # Into one that is compressed alike, and from there to a plain pruned one.
    with torch.no_grad():
        restored.shapeshift.reset_parameters()
    assert torch.equal(shapeshift.load(tmp_path, restored)(x), compressed(x))
    shapeshift.materialize(restored)
    shapeshift.save(restored, tmp_path)
    assert torch.equal(shapeshift.load(tmp_path, small_resnet()).eval()(x), restored(x))


def test_a_pruned_model_is_pruned_again(tmp_path: Path) -> None:
    model, x = livened(small_resnet()), images()
    once = prune.hrank(model, [x], 0.5, progress=False)
    twice = prune.hrank(once, [x], 0.25, progress=False)
    first, second = kept_channels(once), kept_channels(twice)
    assert len(second["stem"]) == 6
    assert all(set(second[layer]) <= set(first[layer]) for layer in first)
    assert torch.equal(twice.stem.weight, model.stem.weight[second["stem"]])
    assert prune.report(twice).macs_before == prune.report(once).macs_before
    shapeshift.save(twice, tmp_path)
    assert torch.equal(shapeshift.load(tmp_path, small_resnet()).eval()(x), twice(x))


def test_a_checkpoint_holds_no_code(tmp_path: Path) -> None:
    pruned = prune.hrank(small_resnet(), [images()], 0.75, progress=False)
    pruned.stem.weight.requires_grad_(False)
    shapeshift.save(pruned, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.safetensors", "shapeshift.json"]
    content = json.loads((tmp_path / "shapeshift.json").read_text())
    assert content["pruning"]["cuts"]["stem"]["out"]["total"] == 16
    with torch.device("meta"):
        model = small_resnet()
    restored = shapeshift.load(tmp_path, model)
    assert restored is model
    assert not restored.stem.weight.requires_grad
    x = images()
    assert torch.equal(restored.eval()(x), pruned.eval()(x))


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "shapeshift.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return edit


DAMAGES = {
    "kept channels": edited(lambda content: content["pruning"]["cuts"]["stem"]["out"].update(kept=[3, 2])),
    "nothing kept": edited(lambda content: content["pruning"]["cuts"]["stem"]["out"].update(kept=[])),
    "no record": edited(lambda content: content.pop("pruning")),
    "other channels": edited(lambda content: content["pruning"]["cuts"]["stem"]["out"].update(kept=list(range(8)))),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_refused(name: str, tmp_path: Path) -> None:
    shapeshift.save(prune.hrank(small_resnet(), [images()], 0.5, progress=False), tmp_path)
    DAMAGES[name](tmp_path)
    with pytest.raises(shapeshift.CheckpointError, match=r"damaged|do not belong together"):
        shapeshift.load(tmp_path, small_resnet())


OTHERS: dict[str, tuple[Callable[[Tensor], nn.Module], str]] = {
    "wider": (lambda x: ResNet(8, 2, projection=True), "stem had 16 output channels before it was pruned, and has 32"),
    "deeper": (lambda x: ResNet(14, projection=True), r"stages\.0\.1\.conv1\.weight is in the model and not in the ch"),
    "shallower": (lambda x: VGG(11, 0.125), "stem is not a layer of the model"),
    "pruned otherwise": (lambda x: prune.hrank(small_resnet(), [x], 0.25, progress=False), "freshly built model"),
    "compressed": (lambda x: shapeshift.compress(small_resnet(), "50%"), "freshly built model"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_model_is_refused_and_unchanged(name: str, tmp_path: Path) -> None:
    x = images()
    shapeshift.save(prune.hrank(small_resnet(), [x], 0.5, progress=False), tmp_path)
    build, message = OTHERS[name]
    model = build(x).eval()
    before, outputs = state_of(model), model(x)
    with pytest.raises(shapeshift.CheckpointError, match=message):
        shapeshift.load(tmp_path, model)
    assert {key: value.shape for key, value in model.state_dict().items()} == {k: v.shape for k, v in before.items()}
    assert torch.equal(model(x), outputs)
    if name in ("wider", "deeper"):
        with pytest.raises(shapeshift.ModelError, match="not pruned"):
            prune.report(model)


def test_a_report_reads_like_a_table() -> None:
    pruned = prune.hrank(small_resnet(), [images()], 0.5, progress=False)
    report = prune.report(pruned)
    lines = str(report).splitlines()
    assert lines[0].split() == ["stem", "8", "of", "16"]
    assert len(lines) == len(report.layers) + 2
    assert lines[-2].startswith(f"{shapeshift.count_parameters(pruned):,} parameters, ")
    assert lines[-1].startswith(f"{report.macs:,} multiply-accumulates, ")
    assert json.loads(json.dumps(report.as_dict()))["layers"][0] == {
        "name": "stem",
        "before": 16,
        "kept": list(report.layers[0].kept),
    }
    assert prune.report(nn.Sequential(pruned)) == report


class Padded(nn.Module):
    """Convolutions that are padded by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(F.pad(x, (1, 1, 1, 1))).relu()
        x = self.second(F.pad(x, (1, 1, 1, 1), mode="reflect")).relu()
        return self.head(F.pad(x, (0, 1)).mean((2, 3)))


def test_padding_of_rows_and_columns_keeps_filters_apart() -> None:
    x = torch.randn(4, 3, 8, 8)
    pruned = prune.hrank(Padded(), [x], 0.5, progress=False)
    assert (pruned.first.out_channels, pruned.second.out_channels, pruned.head.in_features) == (4, 4, 4)
    assert pruned(x).shape == (4, 4)


def test_maps_as_high_as_there_are_channels_are_not_taken_for_rows() -> None:
    model = timm.create_model("resnet10t", num_classes=4)
    ranks = prune.feature_ranks(model, [torch.randn(1, 3, 256, 128)], ["layer1.0", "layer1.0.conv1"], progress=False)
    assert {name: len(found) for name, found in ranks.items()} == {"layer1.0": 64, "layer1.0.conv1": 64}


def test_pruning_in_inference_mode() -> None:
    model, loader = Padded(), [torch.randn(4, 3, 8, 8)]
    with torch.inference_mode():
        rates = prune.rate_for(model, loader, params="60%")
        pruned = prune.hrank(model, loader, rates, progress=False)
    pruned(loader[0]).sum().backward()
    assert all(parameter.grad is not None for parameter in pruned.parameters())


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_wrapped_models_are_refused(wrap: Callable[[nn.Module], nn.Module], tmp_path: Path) -> None:
    x = torch.randn(4, 3, 8, 8)
    with pytest.raises(shapeshift.ModelError, match=r"wraps the model: prune model\.(module|_orig_mod)"):
        prune.hrank(wrap(Padded()), [x], progress=False)
    pruned = prune.hrank(Padded(), [x], progress=False)
    shapeshift.save(wrap(pruned), tmp_path)
    assert shapeshift.load(tmp_path, Padded()).first.out_channels == 4
