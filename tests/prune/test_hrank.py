"""Models without the filters of lowest rank: smaller ones, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

import shapeshift
from shapeshift import prune
from shapeshift.networks.densenet import DenseNet
from shapeshift.networks.googlenet import GoogLeNet
from shapeshift.networks.resnet import ResNet
from shapeshift.networks.vgg import VGG
from tests.prunable import Padded, block, images, kept_channels, livened, small_resnet, state_of
from tests.tolerances import assert_close


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


@pytest.mark.parametrize(
    ("package", "extra", "call"),
    [("tqdm.auto", "progress", prune.feature_ranks), ("torch_pruning", "prune", prune.hrank)],
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
    for layer in pruned.blocks:
        assert layer.attn.qkv.weight.shape == (576, 96)
        assert layer.attn.proj.weight.shape == (96, 192)
        assert (layer.attn.num_heads, layer.attn.head_dim) == (3, 64)
        assert layer.mlp.fc1.weight.shape == (384, 96)
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
