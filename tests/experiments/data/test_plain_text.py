"""Plain text, read from small files that the tests write."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import pytest
import torch

from shapeshift.errors import ConfigError, DataError, MissingExtraError
from shapeshift.experiments.data.plain_text import SOURCES, PlainText, Source, load_text, train_bpe

LINE = "The café sells {} cups of tea — and «words».\n"


def lines(count: int, start: int = 0) -> str:
    return "".join(LINE.format(number) for number in range(start, start + count))


def text_of(text: PlainText) -> str:
    if text.tokenizer is None:
        return bytes(text.tokens.tolist()).decode()
    return str(text.tokenizer.decode(text.tokens.tolist()))


def split_lines(*parts: PlainText) -> list[list[str]]:
    return [text_of(part).splitlines(keepends=True) for part in parts]


@pytest.mark.parametrize("vocabulary", [256, 300])
def test_every_line_is_in_one_of_the_parts(tmp_path: Path, vocabulary: int) -> None:
    path = tmp_path / "a.txt"
    path.write_text(lines(4000), encoding="utf-8")
    training, test = load_text(path, vocabulary, held_out=0.2)
    kept, held = split_lines(training, test)
    assert not set(kept) & set(held)
    assert sorted([*kept, *held]) == sorted(lines(4000).splitlines(keepends=True))
    assert 0.1 < len(held) / 4000 < 0.3
    for part in (training, test):
        assert part.vocabulary == vocabulary
        assert part.count_bytes(part.tokens) == len(text_of(part).encode())
        assert part.count_bytes(part.tokens[5:9].view(2, 2)) == int(part.token_bytes[part.tokens[5:9].long()].sum())
    if vocabulary > 256:
        assert len(training.tokens) < 0.7 * training.count_bytes(training.tokens)


def test_the_split_follows_the_seed_and_validation_leaves_the_held_out_part_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(lines(4000), encoding="utf-8")
    first, again, other = (load_text(path, held_out=0.2, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(one.tokens, two.tokens) for one, two in zip(first, again, strict=True))
    assert text_of(other[1]) != text_of(first[1])
    fewer, validation = load_text(path, held_out=0.2, validation=True)
    kept, valid, held = split_lines(fewer, validation, first[1])
    assert not set(kept) & set(valid)
    assert not set(held) & {*kept, *valid}
    assert len(kept) + len(valid) + len(held) == 4000


def test_packed_files_folders_and_lists_are_read(tmp_path: Path) -> None:
    inner = tmp_path / "deep"
    inner.mkdir()
    (tmp_path / "a.dict.dz").write_bytes(gzip.compress(lines(1000).encode()))
    (inner / "b.pod").write_text(lines(1000, 1000), encoding="utf-8")
    (inner / "c.txt.gz").write_bytes(gzip.compress(lines(1000, 2000).encode()))
    (inner / "d.bin").write_bytes(b"\0" * 50_000)
    listed = [tmp_path / "a.dict.dz", inner / "b.pod", inner / "c.txt.gz"]
    found, same = load_text(tmp_path), load_text(listed)
    assert all(torch.equal(one.tokens, two.tokens) for one, two in zip(found, same, strict=True))
    kept, held = split_lines(*found)
    assert sorted([*kept, *held]) == sorted(lines(3000).splitlines(keepends=True))


def test_bytes_that_are_not_utf_8_become_the_replacement_character(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(lines(1000).encode() + b"caf\xe9\n")
    assert "".join(sorted(map(text_of, load_text(path)), key=len)).count("caf\ufffd\n") == 1


def test_a_bpe_gives_any_text_back() -> None:
    tokenizer = train_bpe([lines(100)], 280)
    for text in (" leading", "日本語\n\n\ttab", "\ufffd", lines(3)):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.get_vocab_size() == 280


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gz"
    damaged.write_bytes(gzip.compress(lines(100).encode())[:-20])
    for path in (damaged, tmp_path / "none.txt"):
        with pytest.raises(DataError, match=path.name):
            load_text(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no file that ends in"):
        load_text(tmp_path / "empty")


def test_too_little_text_and_wrong_options_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(lines(10), encoding="utf-8")
    with pytest.raises(DataError, match="too few"):
        load_text(path)
    for options in ({"vocabulary": 255}, {"held_out": 0.0}, {"held_out": 1.0}):
        with pytest.raises(ConfigError, match="at least 256"):
            load_text(path, **options)  # type: ignore[arg-type]


def test_a_source_lists_its_files_or_says_how_to_get_them(tmp_path: Path) -> None:
    source = Source(tmp_path, "*.pod", "apt-get install it")
    with pytest.raises(DataError, match=r"has no file \*\.pod: apt-get install it"):
        source.files()
    (tmp_path / "b.pod").touch()
    (tmp_path / "a.pod").touch()
    (tmp_path / "c.txt").touch()
    assert [path.name for path in source.files()] == ["a.pod", "b.pod"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "d.pod").touch()
    assert source.files(other) == [other / "d.pod"]
    assert any(path.name == "argparse.py" for path in SOURCES["python_library"].files())
    for name, package in (("gcide", "dict-gcide"), ("perl_doc", "perl-doc")):
        with pytest.raises(DataError, match=f"apt-get install {package}"):
            SOURCES[name].files(tmp_path)


def test_a_bpe_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match="transformers"):
        train_bpe([lines(1)], 260)
