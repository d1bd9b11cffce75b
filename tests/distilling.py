"""One step of distillation between two small networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift.distill import DISTILLERS, TeacherStudent
from shapeshift.networks.wide_resnet import WideResNet

CLASSES = 5
every_method = pytest.mark.parametrize("method", list(DISTILLERS))


def models() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return WideResNet(10, 0.5, CLASSES), WideResNet(10, 0.25, CLASSES)


def batch(size: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(size, 3, 16, 16, generator=generator)
    return images, torch.randint(CLASSES, (size,), generator=generator)


def build(method: str, teacher: nn.Module, student: nn.Module, **options: Any) -> TeacherStudent:
    torch.manual_seed(2)
    return DISTILLERS[method](teacher, student, **options)


def losses(student: nn.Module, distiller: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Run one step as the documentation writes it."""
    return F.cross_entropy(student(x), y) + distiller(x, y)


def gradients(*modules: nn.Module) -> list[dict[str, Tensor]]:
    return [
        {name.removeprefix("module."): parameter.grad.clone() for name, parameter in module.named_parameters()}
        for module in modules
    ]


def step(student: nn.Module, distiller: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Return the loss of one step, and the gradients of student and connectors."""
    student.zero_grad()
    distiller.zero_grad()
    loss = losses(student, distiller, x, y)
    loss.backward()
    return loss.detach(), gradients(student, distiller)


def expected_step(method: str, x: Tensor, y: Tensor) -> tuple[Tensor, list[dict[str, Tensor]]]:
    teacher, student = models()
    return step(student, build(method, teacher, student), x, y)


def passes(model: nn.Module) -> list[int]:
    """Count a model's passes from here on, in the list's length."""
    found: list[int] = []
    model.register_forward_hook(lambda *_: found.append(1))
    return found
