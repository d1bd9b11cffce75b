"""Pictures of similarity matrices: those of a model, and their changes during training."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from shapeshift.extras import new_figure
from shapeshift.recurrence.similarity import similarity
from shapeshift.surgery.roots import require_shared

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDE = 2.6  # inches
_COLUMNS = 4
# With more layers than this their names would overlap.
_MOST_NAMES = 24


def plot_similarity(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Draw the similarity matrix of each group of layers (Savarese and Maire, ICLR 2019).

    Args:
        model: A model that :func:`similarity` takes.
        path: The image file to write. Its suffix names the format, such as .png.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        ModelError: If the model is not compressed, or has no group of layers that mix the same templates.

    Example:
        >>> import pathlib, tempfile
        >>> from shapeshift.networks.wide_resnet import WideResNet
        >>> from shapeshift.recurrence import plot_similarity, soft_share
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "similarity.svg"
        >>> plot_similarity(soft_share(WideResNet(22, 0.5), templates=2), path)
        >>> path.exists()
        True
    """
    matrices = similarity(model)
    columns = min(_COLUMNS, len(matrices))
    figure = _figure(-(-len(matrices) // columns), columns, _SIDE + 0.9, _SIDE + 0.9)
    weights = {group.name: group.weights for group in require_shared(model).plan.groups}
    for axes in figure.axes[len(matrices) :]:
        axes.set_axis_off()
    for axes, (name, matrix) in zip(figure.axes, matrices.items(), strict=False):
        image = _draw(axes, matrix)
        axes.set_title(name, fontsize=9)
        names = short_names([weight.name for weight in weights[name]])
        if len(names) <= _MOST_NAMES:
            axes.set_yticks(range(len(names)), names, fontsize=7)
            axes.set_xticks(range(len(names)), names, fontsize=7, rotation=90)
    figure.colorbar(image, ax=figure.axes, shrink=0.8, label="similarity")
    figure.savefig(path, dpi=150, bbox_inches="tight")


class SimilarityRecorder:
    """Records the similarity matrices of a model during training.

    Create it before training, and call :meth:`record` after each epoch.

    Args:
        model: A model that :func:`similarity` takes.

    Attributes:
        epochs: The matrices of each record by the group's name, on the CPU. The first record is made at creation.

    Raises:
        ModelError: If the model is not compressed, or has no group of layers that mix the same templates.

    Example:
        >>> from shapeshift.networks.wide_resnet import WideResNet
        >>> from shapeshift.recurrence import SimilarityRecorder, soft_share
        >>> recorder = SimilarityRecorder(soft_share(WideResNet(22, 0.5), templates=2))
        >>> for epoch in range(3):
        ...     recorder.record()  # after the training of an epoch
        >>> len(recorder.epochs), sorted(recorder.epochs[0])
        (4, ['stage1_8x8x3x3', 'stage2_16x16x3x3', 'stage3_32x32x3x3'])
    """

    def __init__(self, model: nn.Module) -> None:
        self.epochs: list[dict[str, Tensor]] = []
        self._model = model
        self.record()

    def record(self) -> None:
        """Append the present matrices of the model."""
        self.epochs.append({name: matrix.cpu() for name, matrix in similarity(self._model).items()})

    def as_dict(self) -> dict[str, list[list[list[float]]]]:
        """Return the matrices of each group, one per record, as a dict that JSON can hold."""
        return {name: [epoch[name].tolist() for epoch in self.epochs] for name in self.epochs[0]}

    def plot(self, path: str | os.PathLike[str], columns: int = 6) -> None:
        """Draw the matrices over the epochs: one row for each group, and epochs from left to right.

        Args:
            path: The image file to write. Its suffix names the format, such as .png.
            columns: The largest number of epochs to show. They are evenly spaced, from the first to the last.

        Raises:
            MissingExtraError: If matplotlib is not installed.
        """
        last = len(self.epochs) - 1
        count = max(1, min(columns, last + 1))
        shown = sorted({round(last * column / max(1, count - 1)) for column in range(count)})
        groups = list(self.epochs[0])
        figure = _figure(len(groups), len(shown), 1.7, 1.8)
        for place, axes in enumerate(figure.axes):
            name, epoch = groups[place // len(shown)], shown[place % len(shown)]
            image = _draw(axes, self.epochs[epoch][name])
            axes.set_xticks([])
            axes.set_yticks([])
            if place < len(shown):
                axes.set_title(f"epoch {epoch}", fontsize=9)
            if place % len(shown) == 0:
                axes.set_ylabel(name, fontsize=8)
        figure.colorbar(image, ax=figure.axes, shrink=0.8, label="similarity")
        figure.savefig(path, dpi=150, bbox_inches="tight")


def short_names(names: Sequence[str]) -> list[str]:
    """Return dotted names without the parts that all of them start with and end with."""
    parts = [name.split(".") for name in names]
    prefix = _common(parts)
    suffix = _common([part[prefix:][::-1] for part in parts])
    return [".".join(part[prefix : len(part) - suffix]) for part in parts]


def _common(parts: Sequence[Sequence[str]]) -> int:
    """Return the number of parts that all names start with."""
    columns = zip(*parts, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


def _figure(rows: int, columns: int, width: float, height: float) -> Figure:
    figure = new_figure(columns * width + 1, rows * height)
    figure.subplots(rows, columns, squeeze=False)
    return figure


def _draw(axes: Axes, matrix: Tensor) -> Any:
    return axes.imshow(matrix.cpu().numpy(), vmin=0, vmax=1, cmap="Blues")
