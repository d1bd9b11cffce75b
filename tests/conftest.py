"""What every test starts with: one thread, one seed, and the same examples of every property."""

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
# `pytest --hypothesis-profile=default` looks for new examples instead.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)
