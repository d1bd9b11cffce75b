"""The questions about Python."""

from __future__ import annotations

import pytest

from shapeshift.experiments.data.questions import questions
from shapeshift.experiments.data.squad import Question


@pytest.fixture(scope="module")
def made() -> tuple[list[Question], list[Question]]:
    return questions()
