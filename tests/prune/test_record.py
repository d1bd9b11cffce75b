"""Pruned models in checkpoints, compressed, and pruned again."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import shapeshift
from shapeshift import prune
from shapeshift.checkpoint.content import deflated, inflated
from shapeshift.networks.resnet import ResNet
from shapeshift.networks.vgg import VGG
from tests.prunable import images, kept_channels, livened, small_resnet, state_of


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
    content = inflated(json.loads((tmp_path / "shapeshift.json").read_text())["content"])
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
        stamp = json.loads(file.read_text())
        content = inflated(stamp["content"])
        change(content)
        file.write_text(json.dumps({**stamp, "content": deflated(content)}))

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
