"""What the file of a checkpoint holds: rounded as a pass rounds, and coded by its entropy on demand."""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import shapeshift
from shapeshift import prune
from shapeshift.checkpoint import files
from shapeshift.checkpoint.coding import Run, coded, decoded
from shapeshift.checkpoint.files import PLAN_FILE, TENSORS_FILE
from shapeshift.checkpoint.packing import JOINED, Kept, directory, kept_tensors, packed, unpacked
from shapeshift.errors import CheckpointError
from shapeshift.generators import GENERATORS
from shapeshift.store_format import STORE_FORMATS
from tests.methods import compressed
from tests.models import MODELS, Residual
from tests.prunable import images, small_resnet
from tests.tolerances import assert_close

INPUTS = MODELS["residual"].inputs()
every_generator = pytest.mark.parametrize("combine", list(GENERATORS))
every_format = pytest.mark.parametrize("store", list(STORE_FORMATS))


def bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def wide() -> nn.Module:
    """Build layers whose store is large, beside small and large tensors of other kinds."""
    model = nn.Sequential(nn.Linear(64, 200), nn.BatchNorm1d(200), nn.Linear(200, 64))
    model.register_buffer("far", torch.arange(3000))
    model.register_buffer("flags", torch.ones(20_000, dtype=torch.bool))
    model.register_buffer("none", torch.empty(0))
    return model


@pytest.mark.parametrize("store", ["bfloat16", "float16"])
def test_entries_half_way_between_two_values_are_rounded_as_in_a_pass(store: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = wide()
    model = shapeshift.compress(copy.deepcopy(plain), "50%", store=store, seed=0).eval()
    entries = model.get_parameter("shapeshift.all.store.0")
    with torch.no_grad():
        low = entries.to(STORE_FORMATS[store].dtype).float()  # type: ignore[attr-defined]
        half = 1 << (15 if store == "bfloat16" else 12)
        near = torch.randint(-2, 3, low.shape, dtype=torch.int32)
        entries.copy_((low.view(torch.int32) + half + near).view(torch.float32))
    shapeshift.save(model, tmp_path)
    loaded = shapeshift.load(tmp_path, copy.deepcopy(plain)).eval()
    assert_close(loaded[0].weight, model[0].weight, "identical")
    assert_close(loaded[2].weight, model[2].weight, "identical")


@every_format
@every_generator
def test_a_coded_file_holds_the_same_to_the_last_bit(combine: str, store: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = Residual(width=24)
    model = compressed(copy.deepcopy(plain), 0.7, combine=combine, store=store, rest="bfloat16", seed=1).eval()
    shapeshift.save(model, tmp_path / "plain")
    shapeshift.save(model, tmp_path / "coded", entropy_coding=True)
    assert bytes_in(tmp_path / "coded") < bytes_in(tmp_path / "plain")
    found, expected = (shapeshift.load(tmp_path / name, copy.deepcopy(plain)).eval() for name in ("coded", "plain"))
    assert_close(dict(found.state_dict()), dict(expected.state_dict()), "identical")
    assert_close(found(*INPUTS), expected(*INPUTS), "identical")


@every_format
def test_tensors_of_every_kind_are_coded(store: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = wide()
    model = shapeshift.compress(copy.deepcopy(plain), "50%", store=store)
    report = shapeshift.report(model)
    shapeshift.save(model, tmp_path, entropy_coding=True)
    assert bytes_in(tmp_path) < report.checkpoint_bytes
    loaded = shapeshift.load(tmp_path, copy.deepcopy(plain))
    shapeshift.save(model, tmp_path)
    assert_close(dict(loaded.state_dict()), dict(shapeshift.load(tmp_path, plain).state_dict()), "identical")


def test_a_pruned_model_is_coded(tmp_path: Path) -> None:
    pruned = prune.hrank(small_resnet(), [images()], 0.5, progress=False)
    shapeshift.save(pruned, tmp_path / "plain")
    shapeshift.save(pruned, tmp_path / "coded", entropy_coding=True)
    assert bytes_in(tmp_path / "coded") < bytes_in(tmp_path / "plain")
    loaded = shapeshift.load(tmp_path / "coded", small_resnet())
    assert_close(dict(loaded.state_dict()), dict(pruned.state_dict()), "identical")


def test_what_gets_no_smaller_is_not_coded(tmp_path: Path) -> None:
    model = shapeshift.compress(nn.Linear(1024, 64, bias=False), "100%", mapping="shape")
    with torch.no_grad():  # bytes that are all equally frequent
        entries = model.get_parameter("shapeshift.64x1024.store.0")
        even = torch.arange(4 * entries.numel(), dtype=torch.int32).mul(167).to(torch.uint8)
        entries.view(-1).copy_(even.view(torch.float32).nan_to_num(1.0))
    for name, coding in (("plain", False), ("coded", True)):
        shapeshift.save(model, tmp_path / name, entropy_coding=coding)
    assert bytes_in(tmp_path / "coded") <= bytes_in(tmp_path / "plain")


@pytest.mark.parametrize("sizes", [(), (0,), (1,), (7, 9, 40_000), (100_000, 0, 3)])
def test_bytes_are_found_again(sizes: tuple[int, ...]) -> None:
    runs = [Run(str(place % 2), 6 * size, (1, 2, 3)[place % 3]) for place, size in enumerate(sizes)]
    content = torch.randint(100, (sum(run.size for run in runs),), dtype=torch.uint8)
    assert torch.equal(decoded(coded(content, runs), runs), content)


def bomb(size: int) -> Tensor:
    return torch.frombuffer(bytearray(zlib.compress(bytes(size))), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("content", "size"),
    [
        (bomb(1000), 10**15),  # a size that nothing but a bomb has
        (bomb(10**8), 10**8),
        (bomb(10**8), 5 * len(bomb(10**8))),  # more than it says
        (bomb(1000)[:-5], 80),  # cut off
        (torch.cat([bomb(80), bomb(80)]), 80),  # followed by something
        (bomb(80), 79),
        (bomb(80), 81),
        (torch.zeros(100, dtype=torch.uint8), 80),
        (torch.empty(0, dtype=torch.uint8), 0),
    ],
)
def test_a_damaged_code_is_refused_before_it_takes_memory(
    content: Tensor, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, **options: (asked.append(shape), empty(*shape, **options))[1])
    with pytest.raises(ValueError, match=r"code|coded"):
        decoded(content, [Run("", size, 1)])
    assert not asked


def saved(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Save a model whose file is coded, and return the description and the content of the file."""
    shapeshift.save(shapeshift.compress(Residual(width=24), "50%", seed=0), folder, entropy_coding=True)
    stamp = json.loads((folder / PLAN_FILE).read_text())
    described = files._described(stamp, folder / PLAN_FILE)
    return {key: described[key] for key in described if key not in ("content", "sha256")}, load_file(
        folder / TENSORS_FILE
    )


def sealed(folder: Path, description: dict[str, Any], content: dict[str, Tensor]) -> None:
    """Write other files in the place of those of a checkpoint, whose checksum is right."""
    save_file(content, folder / TENSORS_FILE)
    stamp = {name: description[name] for name in ("format", "format_version", "shapeshift", "torch")}
    stamp["content"] = files.deflated({key: value for key, value in description.items() if key not in stamp})
    stamp["sha256"] = files.seal(stamp, folder / TENSORS_FILE)
    (folder / PLAN_FILE).write_text(json.dumps(stamp))


@pytest.mark.parametrize(
    "damage",
    [
        lambda description, content: description["tensors"][0].update(shape=[10**12]),
        lambda description, content: description["tensors"].pop(),
        lambda description, content: description.pop("coding"),
        lambda description, content: content.pop(JOINED),
        lambda description, content: content.update({JOINED: content[JOINED][:-9].clone()}),
        lambda description, content: content.update({JOINED: bomb(10**7)}),
    ],
)
def test_a_damaged_coded_file_is_refused(damage: Callable[..., Any], tmp_path: Path) -> None:
    description, content = saved(tmp_path)
    sealed(tmp_path, description, content)
    shapeshift.load(tmp_path, Residual(width=24))
    damage(description, content)
    sealed(tmp_path, description, content)
    with pytest.raises(CheckpointError, match="cannot be unpacked"):
        shapeshift.load(tmp_path, Residual(width=24))


def test_a_directory_names_all_coded_tensors() -> None:
    tensors = {"large": torch.randn(100, 100), "small": torch.randn(3), "empty": torch.empty(0, 4)}
    kept = kept_tensors(tensors, {})
    content = packed(tensors, kept, coding=True)
    assert set(content) == {JOINED}
    assert_close(unpacked(content, directory(kept, coding=True), coding=True), tensors, "identical")


def test_a_shape_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="no tensor has the shape"):
        Kept.from_dict({"name": "a", "kind": "float32", "shape": [float("inf")]})
