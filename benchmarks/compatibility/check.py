"""A check: one operation, run on a compressed model and on the plain model with the same weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import shapeshift

#: The checks, by their group and name.
CHECKS: dict[tuple[str, str], Callable[[], None]] = {}


def check(group: str, name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Return a decorator that registers a check.

    A check raises an AssertionError where the compressed model does something else than the plain one.
    """

    def add(run: Callable[[], None]) -> Callable[[], None]:
        assert (group, name) not in CHECKS, f"{group}, {name} is registered already"
        CHECKS[group, name] = run
        return run

    return add


class PlainFailsError(Exception):
    """An operation that does not run on the plain model here, such as an optimizer for GPUs."""


class SaidByOthersError(Exception):
    """An error of another library on a compressed model, which names the cause; its text says what to do."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a check.

    Attributes:
        works: whether the compressed model does what the plain one does.
        message: the error or warning where it does not.
    """

    works: bool
    message: str = ""


def run(group: str, name: str) -> Outcome:
    """Run a check.

    Raises:
        PlainFailsError: if the operation does not run on the plain model.
        Exception: any other error that is not one of the library: the operation fails without saying what to do.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.manual_seed(0)
        try:
            CHECKS[group, name]()
        except (shapeshift.ShapeshiftError, SaidByOthersError) as error:
            return Outcome(works=False, message=str(error))
    said = [str(warning.message) for warning in caught if issubclass(warning.category, shapeshift.ShapeshiftWarning)]
    return Outcome(works=not said, message=said[0] if said else "")


class Network(nn.Module):
    """A small network with convolutions, norms, an embedding-like table and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.body = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
        self.hidden = nn.Linear(16, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.body(x)
        logits: Tensor = self.head(self.hidden(x.mean((2, 3))).relu())
        return logits


def images() -> Tensor:
    """Return a batch for the network."""
    return torch.randn(4, 3, 8, 8)


def pair(**options: Any) -> tuple[Network, Network]:
    """Return a compressed network, with options of ``compress``, and the plain network with the same weights."""
    compressed = shapeshift.compress(Network(), "40%", seed=0, **options)
    return compressed, shapeshift.materialize(copy.deepcopy(compressed))


def squared(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return a loss of a model on a batch."""
    loss: Tensor = model(x).square().mean()
    return loss


def common(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that a compressed model and its plain copy have in common, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if name.endswith("bias")}


def equal(compressed: Any, plain: Any) -> None:
    """Assert that two results are equal but for rounding."""
    torch.testing.assert_close(compressed, plain, rtol=1e-4, atol=1e-5)
