"""Distil a model of timm into a smaller one by timm's recipe: its optimizer, schedule, Mixup and weight average."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from timm.data import Mixup  # type: ignore[attr-defined]
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from timm.scheduler import create_scheduler_v2  # type: ignore[attr-defined]
from timm.utils import ModelEmaV3  # type: ignore[attr-defined]
from torch import nn

from shapeshift.distill import Distiller
from shapeshift.errors import ConfigError
from shapeshift.experiments.data import DATASETS, Images
from shapeshift.experiments.distillation.script import compare, make_parser
from shapeshift.experiments.training import error
from shapeshift.optimizer import parameter_groups

SIDE = 32  # the least side of an image in pixels


def main(argv: Sequence[str] | None = None) -> int:
    """Train the teacher, the student alone and the student with each method, and print the table."""
    parser = make_parser("shapeshift.experiments.distillation.timm", __doc__, epochs=5, methods=["kd"])
    parser.add_argument("--teacher", default="resnet10t", help="a name of timm")
    parser.add_argument("--student", default="test_resnet", help="a name of timm")
    parser.add_argument("--data", choices=["digits", "glyphs"], default="digits", help="the data set")
    parser.add_argument("--data-dir", type=Path, help="the folder to keep glyphs in; None means the user's cache")
    parser.add_argument("--train-size", type=int, default=1200, help="images to train on (there are 1200 digits)")
    parser.add_argument("--batch-size", type=int, default=32, help="the number of images of a step, an even number")
    parser.add_argument("--opt", default="adamw", help="an optimizer of timm")
    parser.add_argument("--lr", type=float, default=5e-3, help="learning rate")
    parser.add_argument("--weight-decay", type=float, default=0.05, help="not on norms, biases and coefficients")
    parser.add_argument("--sched", default="cosine", help="a schedule of timm")
    parser.add_argument("--mixup", type=float, default=0.1, help="the alpha of Mixup; 0 means no Mixup")
    parser.add_argument("--cutmix", type=float, default=0.0, help="the alpha of CutMix; 0 means no CutMix")
    parser.add_argument("--smoothing", type=float, default=0.1, help="the label smoothing")
    parser.add_argument("--ema-decay", type=float, default=0.98, help="decay of the weight average that is tested")
    parser.add_argument("--amp", action="store_true", help="train in bfloat16 where torch.autocast allows it")
    arguments = parser.parse_args(argv)
    if arguments.batch_size % 2 or arguments.batch_size > arguments.train_size:
        raise ConfigError(
            f"--batch-size {arguments.batch_size}: Mixup pairs images, so give an even number, of at most "
            f"--train-size {arguments.train_size}"
        )

    sizes = {"train": arguments.train_size, "test": 1000} if arguments.data == "glyphs" else {}
    training, test = (_enlarged(part) for part in DATASETS[arguments.data](arguments.data_dir, **sizes))
    size = min(arguments.train_size, len(training.labels))
    steps = size // arguments.batch_size
    build = partial(timm.create_model, in_chans=training.channels, num_classes=training.num_classes)
    mix = Mixup(  # type: ignore[no-untyped-call]
        arguments.mixup,
        arguments.cutmix,
        prob=float(arguments.mixup > 0 or arguments.cutmix > 0),
        label_smoothing=arguments.smoothing,
        num_classes=training.num_classes,
    )

    def train(model: nn.Module, distiller: Distiller | None, on_epoch: Callable[[], None]) -> nn.Module:
        trained = nn.ModuleList([model] if distiller is None else [model, distiller]).train()
        groups = parameter_groups(trained, arguments.weight_decay)
        optimizer = create_optimizer_v2(groups, arguments.opt, lr=arguments.lr)
        schedule, _ = create_scheduler_v2(
            optimizer, arguments.sched, arguments.epochs, warmup_epochs=1, step_on_epochs=False, updates_per_epoch=steps
        )
        average = ModelEmaV3(model, decay=arguments.ema_decay, use_warmup=True)
        generator = torch.Generator().manual_seed(arguments.seed)
        device = torch.device(arguments.device)
        for epoch in range(arguments.epochs):
            order = torch.randperm(size, generator=generator)[: steps * arguments.batch_size]
            for step, batch in enumerate(order.view(steps, -1), epoch * steps + 1):
                x, y = mix(training.images[batch].to(device), training.labels[batch].to(device))
                with torch.autocast(device.type, torch.bfloat16, enabled=arguments.amp):
                    loss = F.cross_entropy(model(x).float(), y)  # Mixup makes soft labels
                    if distiller is not None:
                        loss = loss + distiller(x, y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                average.update(model, step)
                schedule.step_update(step)
            on_epoch()
        averaged: nn.Module = average.module
        return averaged

    compare(
        f"{arguments.student} from {arguments.teacher} on {arguments.data}",
        arguments,
        partial(build, arguments.teacher),
        partial(build, arguments.student),
        train,
        partial(error, data=test),
    )
    return 0


def _enlarged(part: Images) -> Images:
    """Enlarge images that are too small for the strides of timm's models."""
    side = max(SIDE, part.images.shape[-1])
    images = F.interpolate(part.images, (side, side), mode="bilinear", align_corners=False)
    return Images(images, part.labels, part.num_classes)


if __name__ == "__main__":
    raise SystemExit(main())
