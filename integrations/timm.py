"""Models of timm, by name."""

from __future__ import annotations

import timm
import torch
from torch import nn


def model_names() -> list[str]:
    """Return the names that timm can build."""
    return list(timm.list_models())


def build(name: str) -> nn.Module:
    """Build a model of timm on the meta device, where its weights take no memory."""
    with torch.device("meta"):
        model: nn.Module = timm.create_model(name)
    return model
