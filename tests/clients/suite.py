"""A table of checks and models, each run on a plain and on a compressed model.

The peers' own test suites are not in their packages, so the checks are written again here, by the names that they have
there. A check that a compressed model cannot pass is listed with its reason. It has to fail with an error of this
library, and the list may only shrink: a check that passes again is a failure until its entry is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

import shapeshift
from shapeshift.errors import ShapeshiftError

Check = Callable[..., None]

FORMS = {"plain": lambda model: model, "compressed": lambda model: shapeshift.compress(model, "60%")}


def table(
    checks: Mapping[str, Check], models: Mapping[str, Any], expected: Mapping[tuple[str, str], str], skipped: set[Any]
) -> Any:
    """Return the decorator that runs a test for each check, model and form.

    Args:
        checks: The checks by name.
        models: What makes each model, by name.
        expected: The reason why a check fails on a compressed model, by the names of both; "*" is every model.
        skipped: The names of checks and models that do not apply to each other.
    """
    stale = [key for key in expected if key[0] not in checks or key[1] not in {*models, "*"}]
    assert not stale, f"no such check or model: {stale}"
    rows = []
    for check in checks:
        for model in models:
            if (check, model) in skipped:
                continue
            for form in FORMS:
                reason = expected.get((check, model), expected.get((check, "*"))) if form == "compressed" else None
                mark = pytest.mark.xfail(raises=ShapeshiftError, reason=reason, strict=True) if reason else ()
                rows.append(
                    pytest.param(checks[check], models[model], FORMS[form], marks=mark, id=f"{check}-{model}-{form}")
                )
    return pytest.mark.parametrize(("check", "build", "form"), rows)
