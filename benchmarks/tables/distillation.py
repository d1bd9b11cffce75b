"""Distillation of plain students, and of students that have four times as many shared parameters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.claims import Claim
from benchmarks.experiments.classification import quick
from benchmarks.experiments.distillation import Distillation
from benchmarks.experiments.networks import Network, OtherNetwork, WideNetwork, compressed, dense
from benchmarks.row import Row
from benchmarks.table import Table, pairs
from benchmarks.task import Task

TEACHER = WideNetwork(28, 1)
STUDENTS: tuple[Network, ...] = (
    WideNetwork(16, 0.25, stem=8),
    WideNetwork(28, 0.25, stem=8),
    WideNetwork(10, 0.25, stem=8),
    OtherNetwork("ResNet-20-0.25", "resnet", {"depth": 20, "width": 0.25, "projection": True}),
)
METHODS = {"OFD": "ofd", "SRRL": "srrl"}
BUDGET = "4x"
# How else to train one student, and the shared parameters in its place.
RECIPES: dict[str, dict[str, Any]] = {
    "rate 0.2": {"learning_rate": 0.2},
    "no decay": {"weight_decay": 0.0},
    "200 epochs": {"epochs": 200},
}


def at_tuned_rate(task: Task) -> Task:
    """Train as :func:`quick` does, on clothes at a rate that suits both sides: the table sgd_rates tries three."""
    task = quick(task)
    if task.data != "fashion_mnist" or task.device != "cpu":
        return task
    return replace(task, recipe=replace(task.recipe, learning_rate=0.2))


def _rows(student: Network) -> list[Row]:
    rows = [Row(student, "alone", "", dense), Row(student, "shared", BUDGET, compressed)]
    for title, method in METHODS.items():
        distillation = Distillation(method, TEACHER)
        rows.append(Row(student, title, "", dense, distillation=distillation))
        rows.append(Row(student, f"shared + {title}", BUDGET, compressed, distillation=distillation))
    return rows


def _other_recipes(student: Network) -> list[Row]:
    rows, distillation = [], Distillation("srrl", TEACHER)
    for title, recipe in RECIPES.items():
        rows.append(Row(student, f"SRRL, {title}", "", dense, recipe=recipe, distillation=distillation))
        method = f"shared + SRRL, {title}"
        rows.append(Row(student, method, BUDGET, compressed, recipe=recipe, distillation=distillation))
    return rows


ROWS = (
    Row(TEACHER, "teacher", "", dense),
    *(row for student in STUDENTS for row in _rows(student)),
    *_other_recipes(STUDENTS[2]),
)

TABLE = Table(
    name="distillation",
    title="Distillation",
    source="Plummer et al. 2022, table 3",
    expectation=(
        "Students that learn alone and from a teacher, by overhaul of feature distillation (OFD) and by softmax "
        "regression representation learning (SRRL); plain, and with four times as many parameters that their layers "
        "share, which materialize to the plain student's size. The pairs are the paper's, teacher WRN-28-4 and "
        "students WRN-16-4, WRN-28-2, WRN-16-2 and ResNet-56, made smaller for small images. Each method is expected "
        "to help the plain student, and sharing to help each method. The last rows train one student faster, longer "
        "and without weight decay, to see whether shared parameters want another recipe."
    ),
    rows=ROWS,
    claims=(
        *(Claim(f"{title} is ahead of learning alone", pairs(ROWS, title, "alone")) for title in METHODS),
        Claim("Sharing is ahead of learning alone", pairs(ROWS, "shared", "alone")),
        *(Claim(f"Sharing is ahead of {title} alone", pairs(ROWS, f"shared + {title}", title)) for title in METHODS),
        *(Claim(f"So it is at {title}", pairs(ROWS, f"shared + SRRL, {title}", f"SRRL, {title}")) for title in RECIPES),
    ),
    adapt=at_tuned_rate,
)
