"""Knowledge distillation: the student matches the teacher's softened probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift.distill.base import DISTILLERS, TeacherStudent, at_least_float32
from shapeshift.distill.recorder import Pass
from shapeshift.distill.trace import first_tensor
from shapeshift.errors import ConfigError, ModelError


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over rows of logits.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2. The factor T^2 keeps the
    size of the gradients independent of the temperature.

    Args:
        student: The student's logits, of shape (N, classes).
        teacher: The teacher's logits, of shape (N, classes).
        temperature: The temperature T.

    Returns:
        A scalar; 0 if there are no rows.
    """
    log_probabilities = F.log_softmax(student / temperature, -1), F.log_softmax(teacher / temperature, -1)
    total = F.kl_div(*log_probabilities, reduction="sum", log_target=True)
    return total / max(1, len(student)) * temperature**2


def find_logits(output: Any) -> list[Tensor]:
    """Return the logits in a model's output: every field whose name ends in "logits", or else the first tensor.

    Raises:
        ModelError: If the output holds no tensor.
    """
    if isinstance(output, Mapping):
        named = [value for name, value in output.items() if name.endswith("logits") and isinstance(value, Tensor)]
        if named:
            return named
    tensor = first_tensor(output)
    if tensor is None:
        raise ModelError(f"a model returned {type(output).__name__}, which holds no logits to distil")
    return [tensor]


@DISTILLERS.register("kd")
class KD(TeacherStudent):
    """Knowledge distillation (Hinton, Vinyals and Dean 2015, section 2): match the teacher's softened probabilities.

    Args:
        teacher: The trained model. Its output is a tensor of logits, or holds fields whose names end in "logits", of
            shape (N, classes) or (N, positions, classes).
        student: The model to train, with the same classes.
        weight: The factor of the loss.
        temperature: The temperature that both models' logits are divided by.
        autocast: The dtype in which the teacher runs under autocast. None runs it as the surrounding code does.

    Raises:
        ConfigError: If the temperature is not positive.
        ModelError: If teacher and student are the same model.

    Example:
        >>> import torch
        >>> from shapeshift.distill import KD
        >>> teacher, student = torch.nn.Linear(8, 3), torch.nn.Linear(8, 3)
        >>> x = torch.randn(4, 8)
        >>> with KD(teacher, student, temperature=2.0) as distiller:
        ...     logits = student(x)
        ...     loss = distiller(x)
        >>> loss.item() >= 0, list(distiller.parameters())
        (True, [])
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        weight: float = 1.0,
        temperature: float = 4.0,
        autocast: torch.dtype | None = None,
    ) -> None:
        if not temperature > 0:
            raise ConfigError(f"temperature={temperature}: logits are divided by it; give a positive number")
        super().__init__(teacher, student, autocast=autocast)
        self.weight = weight
        self.temperature = temperature

    def compare(self, teacher: Pass, student: Pass, y: Any) -> Tensor:
        """Sum :func:`soft_cross_entropy` over the fields of logits, without positions that ``y`` labels with -100."""
        teacher_logits, student_logits = find_logits(teacher.output), find_logits(student.output)
        shapes = [[tuple(logits.shape) for logits in every] for every in (teacher_logits, student_logits)]
        if shapes[0] != shapes[1]:
            raise ModelError(
                f"the teacher's logits have shapes {shapes[0]} and the student's {shapes[1]}: both need the same "
                "classes, and the distiller the batch that the student has just seen"
            )
        if any(len(shape) not in (2, 3) or shape[-1] < 2 for shape in shapes[0]):
            raise ModelError(
                f"logits of shape {shapes[0]} are no probabilities of several classes: KD needs (N, classes), or "
                "(N, positions, classes)"
            )
        losses = []
        for target, logits in zip(teacher_logits, student_logits, strict=True):
            logits, target = at_least_float32(logits), at_least_float32(target)
            counts = self.counted(y, logits.shape[:-1])
            ours, theirs = (every.flatten(0, -2) if counts is None else every[counts] for every in (logits, target))
            losses.append(soft_cross_entropy(ours, theirs, self.temperature))
        return self.weight * torch.stack(losses).sum()
