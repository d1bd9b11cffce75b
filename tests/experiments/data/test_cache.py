"""The cache of data sets that are drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from shapeshift.experiments.data.glyphs import glyphs
from tests.data_files import kept


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: data[:100], lambda data: data[:-10], lambda data: b"another file"],
    ids=["empty", "beginning", "truncated", "foreign"],
)
def test_a_damaged_cache_is_made_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    drawn = glyphs(tmp_path, train=4, test=2)
    (path,) = tmp_path.iterdir()
    intact = kept(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    repaired = glyphs(tmp_path, train=4, test=2)
    assert all(torch.equal(one.images, two.images) for one, two in zip(drawn, repaired, strict=True))
    assert all(np.array_equal(images, intact[name]) for name, images in kept(tmp_path).items())


def test_a_cache_that_cannot_be_written_whole_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_the_disk(file: object, **arrays: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", fill_the_disk)
    with pytest.raises(OSError, match="no space left"):
        glyphs(tmp_path, train=4, test=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("variable", "folder"), [("XDG_CACHE_HOME", "shapeshift"), ("HOME", ".cache/shapeshift")])
def test_the_users_cache_is_where_the_system_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, folder: str
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    glyphs(train=4, test=2)
    assert {name: len(images) for name, images in kept(tmp_path / folder).items()} == {"train": 4, "test": 2}
