"""The fixture that counts how often weights are generated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from shapeshift.generators import GENERATORS, WeightGenerator


@pytest.fixture
def generations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the index of every weight that is generated from here on."""
    found: list[int] = []
    for generator in map(GENERATORS.__getitem__, GENERATORS):

        def recorded(
            self: WeightGenerator[Any], indices: Any, *memory: Any, generate: Callable[..., Any] = generator.generate
        ) -> list[Tensor]:
            found.extend(indices)
            return generate(self, indices, *memory)

        monkeypatch.setattr(generator, "generate", recorded)
    return found
