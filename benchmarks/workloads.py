"""The training steps that speed is measured on: a model, a batch, a loss and an optimizer each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertModel

from shapeshift.networks.wide_resnet import WideResNet


@dataclass(frozen=True)
class Workload:
    """One row of the speed tables. Its functions are those of modules, since other processes import them.

    Attributes:
        title: The name of the row.
        model: A function that builds the model.
        batch: A function that makes an input of a batch size.
        optimizer: A function that makes the optimizer of a list of parameters or parameter groups.
        batch_size: The batch size on a CPU.
        gpu_batch_size: The batch size on a GPU.
    """

    title: str
    model: Callable[[], nn.Module]
    batch: Callable[[int], Tensor]
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    batch_size: int
    gpu_batch_size: int


class BertEncoder(nn.Module):
    """The twelve layers of BERT-base, from embeddings to hidden states."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = BertModel(BertConfig()).encoder

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.encoder(x).last_hidden_state
        return hidden


def _adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-4)


def _sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=5e-4)


def _images(side: int) -> Callable[[int], Tensor]:
    return partial(_noise, (3, side, side))


def _noise(shape: tuple[int, ...], batch_size: int) -> Tensor:
    return torch.randn(batch_size, *shape)


WORKLOADS = {
    "bert": Workload("BERT-base encoder, 64 tokens", BertEncoder, partial(_noise, (64, 768)), _adamw, 8, 32),
    "vit": Workload(
        "ViT-S, 64 px",
        partial(timm.create_model, "vit_small_patch16_224", img_size=64),
        _images(64),
        _adamw,
        8,
        64,
    ),
    "resnet": Workload("ResNet-50, 64 px", partial(timm.create_model, "resnet50"), _images(64), _sgd, 8, 64),
    "wrn": Workload("WRN-28-10, 32 px", partial(WideResNet, 28, 10), _images(32), _sgd, 16, 64),
}


def loss(output: Tensor) -> Tensor:
    """A loss that every output has: cross-entropy against class 0, or the mean square of hidden states."""
    if output.dim() == 2:
        return F.cross_entropy(output, torch.zeros(len(output), dtype=torch.long, device=output.device))
    return output.float().square().mean()
