"""What a distillation loss is: a teacher, hooks on a student, and what is learned between them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from shapeshift.distill.features import Feature
from shapeshift.distill.recorder import Pass, Recorder
from shapeshift.errors import ModelError
from shapeshift.names import Registry
from shapeshift.running.batches import call_model, device_of
from shapeshift.running.wrappers import unwrap


class Distiller(nn.Module, ABC):
    """A loss on what a student computes, given a teacher; it is added to the student's own loss.

    The student's features come from the caller's own forward pass, through hooks that :meth:`close` or leaving a
    ``with`` block removes. The teacher runs once in each call, in evaluation mode and without gradients. Neither of
    them is a submodule: ``parameters()`` and ``state_dict()`` are those of the connectors between them, which are
    trained with the student. To average the gradients of connectors over processes, wrap the distiller in
    ``DistributedDataParallel`` as the student is.
    """

    def forward(self, x: Any, y: Any = None) -> Tensor:
        """Run the teacher, and return the loss of the student's last pass.

        Args:
            x: what the student was called with: a tensor, a tuple of arguments, or a dict of arguments by name.
            y: the labels, for methods that use them.

        Returns:
            A scalar, in float32 at least.

        Raises:
            ModelError: if the student was not run, with gradients, since the last call, or on a batch of another size.
        """
        self.run_teacher(x)
        return self.loss(y)

    @abstractmethod
    def run_teacher(self, x: Any) -> None:
        """Run the teacher, so that what it computes is there for :meth:`loss`."""

    @abstractmethod
    def loss(self, y: Any = None) -> Tensor:
        """Compute the loss of the last passes of teacher and student, and forget them."""

    @abstractmethod
    def close(self) -> None:
        """Remove the hooks from both models."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class TeacherStudent(Distiller):
    """A distiller of one teacher and one student; a method derives from it and defines :meth:`compare`.

    Args:
        teacher: a trained model.
        student: the model to train, plain or compressed; it may be compressed, materialized or wrapped by
            ``DistributedDataParallel`` or ``torch.compile`` later on, but a compiled one must not have run yet.
        teacher_features: where the teacher is read.
        student_features: where the student is read.
        autocast: the dtype in which the teacher runs under autocast; None to run it as the surrounding code does.

    Raises:
        ModelError: if both are one model.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        teacher_features: Sequence[Feature] = (),
        student_features: Sequence[Feature] = (),
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if unwrap(teacher) is unwrap(student):
            raise ModelError(
                f"teacher and student are one {type(unwrap(student)).__name__}, which cannot train and run in "
                "evaluation mode at once: give a copy.deepcopy of it as the teacher"
            )
        # In a tuple, where nn.Module does not look for submodules.
        self._models = (teacher, student)
        self._teacher_recorder = Recorder(unwrap(teacher), teacher_features, only_with_gradients=False)
        self._student_recorder = Recorder(unwrap(student), student_features, only_with_gradients=True)
        self.autocast = autocast

    @property
    def teacher(self) -> nn.Module:
        """The teacher, as it was given."""
        return self._models[0]

    @property
    def student(self) -> nn.Module:
        """The student, as it was given."""
        return self._models[1]

    @torch.no_grad()
    def run_teacher(self, x: Any) -> None:
        if any(module.training for module in self.teacher.modules()):
            self.teacher.eval()
        if self.autocast is None:
            call_model(self.teacher, x)
        else:
            with torch.autocast(device_of(self.teacher).type, self.autocast):
                call_model(self.teacher, x)

    def loss(self, y: Any = None) -> Tensor:
        teacher, student = self._teacher_recorder.take(), self._student_recorder.take()
        for target, feature in zip(teacher.features, student.features, strict=True):
            if len(target) != len(feature):
                raise ModelError(
                    f"the student's last pass was on a batch of {len(feature)}, and the teacher's on one of "
                    f"{len(target)}: call the distiller with the batch that the student has just seen"
                )
        return self.compare(teacher, student, y)

    @abstractmethod
    def compare(self, teacher: Pass, student: Pass, y: Any) -> Tensor:
        """Compute the loss; this is what a method defines.

        Args:
            teacher: what the teacher's pass brought, without gradients.
            student: what the student's pass brought.
            y: the labels, or None.

        Returns:
            A scalar.
        """

    def close(self) -> None:
        self._teacher_recorder.close()
        self._student_recorder.close()


def at_least_float32(values: Tensor) -> Tensor:
    """Return a tensor in float32 if its precision is lower: sums over a batch overflow or vanish there."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


DISTILLERS: Registry[type[TeacherStudent]] = Registry("distiller")
