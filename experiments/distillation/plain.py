"""Distil a wide residual network into a thinner one in a plain loop, and compare it with the student trained alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from torch import nn

from shapeshift.distill import Distiller
from shapeshift.experiments.data import DATASETS
from shapeshift.experiments.distillation.script import compare, make_parser
from shapeshift.experiments.training import Recipe, error, train
from shapeshift.networks.wide_resnet import WideResNet

DEPTH = 16


def main(argv: Sequence[str] | None = None) -> int:
    """Train the teacher, the student alone and the student with each method, and print the table."""
    parser = make_parser("shapeshift.experiments.distillation.plain", __doc__, epochs=20, methods=["kd", "ofd", "srrl"])
    parser.add_argument("--data", choices=["digits", "glyphs"], default="digits", help="the data set")
    parser.add_argument("--data-dir", type=Path, help="the folder to keep glyphs in; None means the user's cache")
    parser.add_argument("--train-size", type=int, default=5000, help="the number of glyphs to train on")
    parser.add_argument("--teacher-width", type=float, default=1.0, help=f"the width of the teacher, a WRN-{DEPTH}")
    parser.add_argument("--student-width", type=float, default=0.25, help=f"the width of the student, a WRN-{DEPTH}")
    arguments = parser.parse_args(argv)

    sizes = {"train": arguments.train_size, "test": 2000} if arguments.data == "glyphs" else {}
    training, test = DATASETS[arguments.data](arguments.data_dir, **sizes)
    recipe = Recipe(epochs=arguments.epochs)
    build = partial(WideResNet, DEPTH, in_channels=training.channels, num_classes=training.num_classes)

    def train_plainly(model: nn.Module, distiller: Distiller | None, on_epoch: Callable[[], None]) -> nn.Module:
        train(model, training, recipe, arguments.seed, on_epoch, distiller)
        return model

    compare(
        f"WRN-{DEPTH}-{arguments.student_width:g} from WRN-{DEPTH}-{arguments.teacher_width:g} on {arguments.data}",
        arguments,
        partial(build, arguments.teacher_width),
        partial(build, arguments.student_width),
        train_plainly,
        partial(error, data=test),
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
