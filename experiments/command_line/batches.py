"""Batches of the texts in a file, or of the images in a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from shapeshift.errors import ConfigError, DataError
from shapeshift.experiments.command_line.sources import Source

if TYPE_CHECKING:
    from PIL.Image import Image

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp", ".tif", ".tiff")


def read_batches(source: Source, path: str, length: int, batch_size: int, samples: int | None) -> DataLoader[Any]:
    """Read a text file as windows of tokens, or a folder as images, one class per folder in it.

    Args:
        source: The model that reads them. Its tokenizer cuts texts, and its transform makes inputs of images.
        path: The file, in UTF-8, or the folder.
        length: The most tokens of a window. A model that takes fewer has shorter ones.
        batch_size: The samples of a batch.
        samples: The most samples, spread evenly over the data. None reads all.

    Returns:
        Batches: dicts of the model's arguments for texts, and pairs of images and labels for images. The labels are
        -1 where the folder does not have one folder per class of the model.

    Raises:
        ConfigError: if a size is less than one.
        DataError: if there is nothing to read.
        ModelError: if the model reads data of the other kind.
    """
    if min(length, batch_size, 1 if samples is None else samples) < 1:
        raise ConfigError("--length, --batch-size and --samples must be at least 1")
    place = Path(path)
    if place.is_dir():
        found: Dataset[Any] = _Images(source, place)
    elif place.is_file():
        found = _Texts(source, place, length)
    else:
        raise DataError(f"{path} does not exist: give a text file, or a folder of images")
    count = len(found)  # type: ignore[arg-type]
    if samples is not None and samples < count:
        found = torch.utils.data.Subset(found, [index * count // samples for index in range(samples)])
    return DataLoader(found, batch_size)


class _Texts(Dataset[dict[str, Tensor]]):
    """The windows of a text file. The last one is left out if it is shorter than the others, and not the only one."""

    def __init__(self, source: Source, file: Path, length: int) -> None:
        tokenizer, config = source.tokenizer(), source.model.config
        limits = (length, tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or length)
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file} cannot be read as a text in UTF-8: {error}") from None
        cut = tokenizer(text, truncation=True, max_length=min(limits), return_overflowing_tokens=True)["input_ids"]
        self.windows = [window for window in cut if len(window) == len(cut[0])]
        self.needs_labels = bool(getattr(config, "is_encoder_decoder", False))
        if not text.strip() or not self.windows[0]:
            raise DataError(f"{file} has no text")

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        tokens = torch.tensor(self.windows[index])
        return {"input_ids": tokens, "labels": tokens} if self.needs_labels else {"input_ids": tokens}


class _Images(Dataset[tuple[Tensor, int]]):
    """The images of a folder and of the folders in it."""

    def __init__(self, source: Source, folder: Path) -> None:
        self.files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _IMAGES)
        if not self.files:
            raise DataError(f"{folder} has no images ({', '.join(_IMAGES)})")
        classes = sorted({file.relative_to(folder).parts[0] for file in self.files if file.parent != folder})
        self.labels = _labels(self.files, folder, classes, _num_classes(source.model))
        self.transform: Callable[[Image], Tensor] = source.transform()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        try:
            with Image.open(self.files[index]) as image:
                return self.transform(image.convert("RGB")), self.labels[index]
        except OSError as error:
            raise DataError(f"{self.files[index]} cannot be read as an image: {error}") from error


def _labels(files: Sequence[Path], folder: Path, classes: Sequence[str], num_classes: int | None) -> list[int]:
    """Return the class of each file: the place of its folder among all, or -1 where these are not the model's."""
    if len(classes) != num_classes:
        return [-1] * len(files)
    return [classes.index(file.relative_to(folder).parts[0]) if file.parent != folder else -1 for file in files]


def _num_classes(model: Any) -> int | None:
    config = getattr(model, "config", None)
    return getattr(model, "num_classes", None) or getattr(config, "num_labels", None)
