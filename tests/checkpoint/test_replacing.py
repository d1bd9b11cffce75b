"""Files that are written beside their place, and moved there once they are complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from shapeshift.checkpoint.replacing import replacing


def test_a_file_is_replaced_when_the_new_one_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    file.write_text("old")
    with replacing(file) as written:
        written.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    file.write_text("old")

    def write_half() -> None:
        with replacing(file) as written:
            written.write_text("half")
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        write_half()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
