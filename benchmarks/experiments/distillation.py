"""Distillation of a row's network from a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from benchmarks.experiments.networks import Network, Training
from benchmarks.experiments.pretraining import pretrained
from shapeshift.distill import DISTILLERS, TeacherStudent


@dataclass(frozen=True)
class Distillation:
    """A method of distillation and the network that is the teacher.

    Attributes:
        method: A name in ``DISTILLERS``.
        teacher: The network that is trained first, by the recipe of the table and with the seed of the run.
        options: The keyword arguments of the method, such as JSON can hold.
    """

    method: str
    teacher: Network
    options: Mapping[str, Any] = field(default_factory=dict)

    def start(self, student: nn.Module, training: Training) -> TeacherStudent:
        """Train the teacher, or take the one that was just trained, and let it teach a student.

        Args:
            student: The network that learns, on the device where it is trained.
            training: The training of both.
        """
        teacher = pretrained(self.teacher, "", training)
        return DISTILLERS[self.method](teacher, student, **self.options)
