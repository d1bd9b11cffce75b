"""Distillation losses: their base classes, which own the hooks on a teacher and a student, and their registry."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from shapeshift.distill.features import Feature
from shapeshift.distill.ignored import counted
from shapeshift.distill.recorder import Pass, Recorder
from shapeshift.errors import ModelError, ShapeshiftWarning
from shapeshift.names import Registry
from shapeshift.running.batches import call_model, device_of
from shapeshift.running.wrappers import unwrap


class Distiller(nn.Module, ABC):
    """A distillation loss of a student, given a teacher; the caller adds it to the student's own loss.

    The student's features come from the caller's own forward pass, through hooks that :meth:`close` or the end of a
    ``with`` block removes. The teacher runs once in each call, in evaluation mode and without gradients. Neither of
    them is a submodule: ``parameters()`` and ``state_dict()`` are those of the connectors between them, which are
    trained with the student. To average the gradients of connectors over processes, wrap the distiller in
    ``DistributedDataParallel`` as you wrap the student.

    Example:
        >>> import torch
        >>> from shapeshift.distill import KD
        >>> teacher, student = torch.nn.Linear(8, 3), torch.nn.Linear(8, 3)
        >>> x, y = torch.randn(4, 8), torch.tensor([0, 1, 2, 0])
        >>> with KD(teacher, student) as distiller:
        ...     loss = torch.nn.functional.cross_entropy(student(x), y) + distiller(x, y)
        >>> loss.backward()
        >>> loss.shape, teacher.weight.grad is None
        (torch.Size([]), True)
    """

    def forward(self, x: Any, y: Any = None) -> Tensor:
        """Run the teacher, and return the loss of the student's last pass.

        Args:
            x: The input of the student's last pass: a tensor, a tuple or list of positional arguments, or a dict of
                keyword arguments.
            y: The labels, of the shape that the method uses; None for methods without labels.

        Returns:
            A scalar, in float32 at least.

        Raises:
            ModelError: If the student did not run with gradients since the last call, or ran on a batch of another
                size, or if the distiller is closed.
        """
        self.run_teacher(x)
        return self.loss(y)

    @abstractmethod
    def run_teacher(self, x: Any) -> None:
        """Run the teacher, and keep its features and its output for :meth:`loss`.

        Args:
            x: The input of the student's pass: a tensor, a tuple or list of positional arguments, or a dict of keyword
                arguments.
        """

    @abstractmethod
    def loss(self, y: Any = None) -> Tensor:
        """Compute the loss of the last passes of teacher and student, and forget the passes.

        Args:
            y: The labels, of the shape that the method uses; None for methods without labels.

        Returns:
            A scalar, in float32 at least.

        Raises:
            ModelError: If one of the models did not run since the last call, the student ran without gradients or on
                a batch of another size than the teacher, or the distiller is closed.
        """

    @abstractmethod
    def close(self) -> None:
        """Remove the hooks from both models; the distiller cannot be called any more."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class TeacherStudent(Distiller):
    """A distiller of one teacher and one student; a method derives from it and defines :meth:`compare`.

    Args:
        teacher: The trained model.
        student: The model to train, plain or compressed. It may be compressed, materialized or wrapped by
            ``DistributedDataParallel`` or ``torch.compile`` later on, but a compiled one must not have run yet.
        teacher_features: The places where the teacher is read.
        student_features: The places where the student is read, one for each of the teacher's.
        autocast: The dtype in which the teacher runs under autocast. None runs it as the surrounding code does.

    Raises:
        ModelError: If teacher and student are the same model.

    Example:
        >>> import torch
        >>> from shapeshift.distill import TeacherStudent
        >>> class SquaredDifference(TeacherStudent):
        ...     def compare(self, teacher, student, y):
        ...         return (teacher.output - student.output).square().mean()
        >>> teacher, student = torch.nn.Linear(8, 3), torch.nn.Linear(8, 3)
        >>> x = torch.randn(4, 8)
        >>> with SquaredDifference(teacher, student) as distiller:
        ...     logits = student(x)
        ...     loss = distiller(x)
        >>> torch.allclose(loss, (teacher(x) - logits).square().mean())
        True
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
                "evaluation mode at the same time: give a copy.deepcopy of it as the teacher"
            )
        # nn.Module does not look for submodules in a tuple.
        self._models = (teacher, student)
        self._teacher_recorder = Recorder(unwrap(teacher), teacher_features, only_with_gradients=False)
        self._student_recorder = Recorder(unwrap(student), student_features, only_with_gradients=True)
        self.autocast = autocast
        self._has_warned = False

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
                    f"the student's last pass was on a batch of {len(feature)}, and the teacher's on a batch of "
                    f"{len(target)}: call the distiller with the batch that the student has just seen"
                )
        return self.compare(teacher, student, y)

    @abstractmethod
    def compare(self, teacher: Pass, student: Pass, y: Any) -> Tensor:
        """Compute the loss from the passes of both models; every method defines this.

        Args:
            teacher: The features and the output of the teacher's pass, without gradients.
            student: The features and the output of the student's pass.
            y: The labels, or None.

        Returns:
            A scalar.
        """

    def counted(self, y: Any, shape: Sequence[int]) -> Tensor | None:
        """Return which positions of a feature count, for methods that leave ignored labels out of :meth:`compare`.

        Args:
            y: The labels. Those of -100 are ignored, as in :func:`torch.nn.functional.cross_entropy`.
            shape: The shape of the feature without its channels: (N, positions), or (N, rows, columns).

        Returns:
            A bool tensor of this shape; None if everything counts.

        Warns:
            ShapeshiftWarning: If ignored positions cannot be left out of the feature; once for each distiller.
        """
        counts, fits = counted(y, shape)
        if not fits and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"labels of shape {tuple(y.shape)} ignore positions with -100, and the feature that "
                f"{type(self).__name__} compares has the shape {tuple(shape)} without its channels, so ignored "
                "positions count in the loss. Compare features with the positions of the labels, as layers=, or call "
                "the distiller without labels",
                ShapeshiftWarning,
                stacklevel=2,
            )
        return None if counts is None else counts.to(device_of(self.student))

    def close(self) -> None:
        self._teacher_recorder.close()
        self._student_recorder.close()


def at_least_float32(values: Tensor) -> Tensor:
    """Return a tensor in float32 if its precision is lower, in which sums over a batch overflow or vanish."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


DISTILLERS: Registry[type[TeacherStudent]] = Registry("distiller")
