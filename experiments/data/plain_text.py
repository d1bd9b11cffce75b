"""Plain text for language models: files as bytes or as tokens of a BPE, with a held-out part."""

from __future__ import annotations

import gzip
import sysconfig
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from shapeshift.errors import ConfigError, DataError, MissingExtraError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BYTES = 256  # the tokens of a text without a tokenizer
PACKED = (".gz", ".dz")  # dictzip's files are gzip's with an index of their blocks

#: The endings of the files that are read from a folder.
ENDINGS = (".txt", ".md", ".rst", ".pod", *PACKED)

_PIECE = 1 << 14  # the bytes of a piece of text that is held out or not


@dataclass(frozen=True)
class PlainText:
    """A text in tokens.

    Attributes:
        tokens: The tokens of the text, of shape (N,): unsigned bytes, or 32-bit integers with a tokenizer.
        token_bytes: The number of bytes of text that each token of the vocabulary stands for, of shape (vocabulary,).
        tokenizer: The tokenizer. None means that a token is a byte.

    Example:
        >>> import torch
        >>> from shapeshift.experiments.data.plain_text import PlainText
        >>> text = PlainText(torch.tensor(list(b"one byte, one token"), dtype=torch.uint8), torch.ones(256))
        >>> text.count_bytes(text.tokens[4:8])
        4
    """

    tokens: Tensor
    token_bytes: Tensor
    tokenizer: Tokenizer | None = None

    @property
    def vocabulary(self) -> int:
        """The number of different tokens."""
        return len(self.token_bytes)

    def count_bytes(self, tokens: Tensor) -> int:
        """Count the bytes of text that some tokens stand for: the divisor of bits per byte.

        Args:
            tokens: Tokens of any shape.
        """
        return int(self.token_bytes[tokens.long()].sum().item())


@dataclass(frozen=True)
class Source:
    """A text that comes with another package.

    Attributes:
        folder: The folder that the package puts it into.
        pattern: The shell pattern of its files in the folder.
        how: The way to get it, for an error message.
    """

    folder: Path
    pattern: str
    how: str

    def files(self, data_dir: Path | None = None) -> list[Path]:
        """List the files of the text, in the order of their names.

        Args:
            data_dir: Another folder that has them. None means the package's own.

        Raises:
            DataError: if there is none.
        """
        folder = self.folder if data_dir is None else data_dir
        found = sorted(folder.glob(self.pattern))
        if not found:
            raise DataError(f"{folder} has no file {self.pattern}: {self.how}")
        return found


#: Texts of packages, by name.
SOURCES = {
    "gcide": Source(
        Path("/usr/share/dictd"),
        "gcide.dict.dz",
        "the GNU Collaborative International Dictionary of English comes with Debian's package dict-gcide "
        "(apt-get install dict-gcide); or give the folder of the file",
    ),
    "perl_doc": Source(
        Path("/usr/share/perl"),
        "5.*.*/pod/*.pod",
        "Perl's manual comes with Debian's package perl-doc (apt-get install perl-doc); or give a folder such as "
        "/usr/share/perl",
    ),
    "python_library": Source(
        Path(sysconfig.get_path("stdlib")),
        "*.py",
        "this Python comes without the source code of its library; use another one",
    ),
}


def load_text(
    files: Path | Sequence[Path],
    vocabulary: int = BYTES,
    held_out: float = 0.05,
    validation: bool = False,
    seed: int = 0,
) -> tuple[PlainText, PlainText]:
    """Read plain text, and hold a part of it out.

    The text is cut at line ends into pieces of about 16 kB. The seed chooses those that are held out, and the order of
    all pieces, so that the start of the training text is a smaller training text.

    Args:
        files: A folder, of which all files that end in .txt, .md, .rst, .pod, .gz or .dz are read, in its folders too;
            a file; or several files. Those that end in .gz or .dz are unpacked. The encoding is UTF-8: a byte that is
            not becomes U+FFFD, the replacement character.
        vocabulary: The number of different tokens. 256 means bytes; for more, a byte-level BPE (Sennrich et al. 2016)
            is trained on the training text by the package ``tokenizers``.
        held_out: The share of the pieces that is held out; at least one is.
        validation: Whether as many pieces of the training text take the place of the held-out ones, so that settings
            can be chosen without them. They are not in the training text that is returned.
        seed: The seed of the choice and of the order.

    Returns:
        The training text and the held-out text, in the same tokens.

    Raises:
        ConfigError: if the vocabulary is below 256, or the share is not between 0 and 1.
        DataError: if a file is missing or damaged, or there is too little text for two parts.
        MissingExtraError: if a BPE is asked for and ``tokenizers`` is not installed.

    Example:
        >>> import argparse
        >>> from pathlib import Path
        >>> from shapeshift.experiments.data.plain_text import load_text
        >>> training, test = load_text(Path(argparse.__file__))
        >>> training.vocabulary, test.count_bytes(test.tokens) == len(test.tokens)
        (256, True)
    """
    if vocabulary < BYTES or not 0 < held_out < 1:
        raise ConfigError(
            f"a text with vocabulary={vocabulary} and held_out={held_out}: give at least {BYTES}, which means bytes, "
            "and a share between 0 and 1"
        )
    listed = _listed(files)
    pieces = [piece for path in listed for piece in _pieces(_read(path))]
    count = max(1, round(held_out * len(pieces)))
    if len(pieces) < (3 if validation else 2) * count:
        raise DataError(
            f"{len(pieces)} pieces of about {_PIECE} bytes in {len(listed)} files are too few to hold {count} out"
            f"{', and to take as many for validation' if validation else ''}: give more text, or a smaller share"
        )
    order = [pieces[place] for place in np.random.default_rng(seed).permutation(len(pieces))]
    tests, rest = order[:count], order[count:]
    if validation:
        tests, rest = rest[:count], rest[count:]
    if vocabulary == BYTES:
        sizes = torch.ones(BYTES, dtype=torch.long)
        return PlainText(_bytes(rest), sizes), PlainText(_bytes(tests), sizes)
    tokenizer = train_bpe(rest, vocabulary)
    # A byte-level token has one character for each byte.
    ids = tokenizer.get_vocab()
    sizes = torch.tensor([len(token) for token in sorted(ids, key=ids.__getitem__)])
    return tuple(PlainText(_encoded(part, tokenizer), sizes, tokenizer) for part in (rest, tests))  # type: ignore[return-value]


def train_bpe(pieces: Sequence[str], size: int) -> Tokenizer:
    """Train a byte-level BPE, which can encode any text and decodes to the same text.

    Args:
        pieces: The texts to train on.
        size: The largest number of different tokens. 256 of them are the single bytes.

    Raises:
        MissingExtraError: if ``tokenizers`` is not installed.

    Example:
        >>> from shapeshift.experiments.data.plain_text import train_bpe
        >>> tokenizer = train_bpe(["banana, bandana"], size=260)
        >>> len(tokenizer.encode("banana").ids) < len("banana")
        True
    """
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError:
        raise MissingExtraError("a BPE", "transformers") from None
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(pieces, trainer)
    return tokenizer


def _listed(files: Path | Sequence[Path]) -> list[Path]:
    """List the files of a folder, or what was listed already."""
    if not isinstance(files, Path):
        return list(files)
    if not files.is_dir():
        return [files]
    found = sorted(path for path in files.rglob("*") if path.suffix in ENDINGS and path.is_file())
    if not found:
        raise DataError(
            f"{files} has no file that ends in {', '.join(ENDINGS)}: give another folder, or list the files"
        )
    return found


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
        if path.suffix in PACKED:
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read ({error}): give a text file, packed by gzip or dictzip or not"
        ) from error
    return content.decode("utf-8", "replace")


def _pieces(text: str) -> list[str]:
    """Cut a text after the first line end that makes a piece long enough."""
    pieces, start = [], 0
    while start < len(text):
        end = text.find("\n", start + _PIECE - 1) + 1 or len(text)
        pieces.append(text[start:end])
        start = end
    return pieces


def _bytes(pieces: Sequence[str]) -> Tensor:
    return torch.frombuffer(bytearray("".join(pieces).encode()), dtype=torch.uint8)


def _encoded(pieces: Sequence[str], tokenizer: Tokenizer) -> Tensor:
    ids = [encoding.ids for encoding in tokenizer.encode_batch(list(pieces))]
    return torch.from_numpy(np.concatenate([np.array(each, np.int32) for each in ids]))
