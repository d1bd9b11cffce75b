"""The fixture that counts how often weights are generated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from shapeshift.generators import GENERATORS, WeightGenerator
from shapeshift.generators.recomputed import Recomputed


@pytest.fixture
def generations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the index of every weight that is generated from here on."""
    found: list[int] = []
    for generator in map(GENERATORS.__getitem__, GENERATORS):

        def make(
            self: WeightGenerator[Any], indices: Any, begun: Any, make: Callable[..., Any] = generator.make
        ) -> list[Tensor]:
            found.extend(indices)
            return make(self, indices, begun)

        def recompute(
            self: WeightGenerator[Any], index: int, begun: Any, recompute: Callable[..., Any] = generator.recompute
        ) -> Recomputed:
            made: Recomputed = recompute(self, index, begun)
            compute = made.recipe.compute

            def recorded() -> Tensor:
                found.append(index)
                return compute()

            monkeypatch.setattr(made.recipe, "compute", recorded)
            return made

        monkeypatch.setattr(generator, "make", make)
        monkeypatch.setattr(generator, "recompute", recompute)
    return found
