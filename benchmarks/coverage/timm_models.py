"""Every model of timm of up to 100 million parameters, on images as small as it takes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import timm
import torch
from torch import nn

from benchmarks.coverage.check import Attempt

MOST_PARAMETERS = 100_000_000
BATCH_SIZE = 2
SIDES = (64, 128)


def names() -> list[str]:
    """Return the names of all models."""
    # Those of shapeshift.integrations.timm, once it is imported, are compressed already.
    return [name for name in timm.list_models() if not name.startswith("shapeshift_")]


def attempts(name: str) -> Iterator[Attempt]:
    """Yield ways to build and call a model, on the smallest images first, and last on those of its default."""
    for side in SIDES:
        yield Attempt(f"{side} px", partial(_build, name, side), partial(_call, side=side), MOST_PARAMETERS)
    yield Attempt("default images", partial(timm.create_model, name), _call, MOST_PARAMETERS)


def _build(name: str, side: int) -> nn.Module:
    try:
        model: nn.Module = timm.create_model(name, img_size=side)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        model = timm.create_model(name)  # one that takes images of any size
    return model


def _call(model: nn.Module, side: int | None = None) -> Any:
    channels, height, width = model.pretrained_cfg["input_size"]  # type: ignore[index]
    generator = torch.Generator().manual_seed(0)
    return model(torch.randn(BATCH_SIZE, channels, side or height, side or width, generator=generator))
