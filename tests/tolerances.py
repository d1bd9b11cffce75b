"""How far two numbers that should be equal may lie apart, and why."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tolerance:
    """A bound on ``|actual - expected|``: ``atol + rtol * |expected|``.

    Attributes:
        rtol: the relative part.
        atol: the absolute part.
        reason: why it is not zero.
    """

    rtol: float
    atol: float
    reason: str


TOLERANCES = {
    "identical": Tolerance(0, 0, "the same kernels run on the same numbers"),
    "moved": Tolerance(
        1e-4, 1e-6, "the same numbers at another address: some CPUs' small matrix products differ by it"
    ),
    "starting deviation": Tolerance(1e-4, 1e-12, "a gain rescales to the deviation: float32 rounding remains"),
    "drawn deviation": Tolerance(
        0.1, 0, "the deviation of some hundred numbers that are drawn varies by a few percent"
    ),
    "half starting deviation": Tolerance(1e-2, 1e-12, "a gain in bfloat16 has 8 bits"),
    "golden": Tolerance(1e-10, 1e-12, "float64 sums of another implementation, taken in another order"),
    "double": Tolerance(1e-9, 1e-12, "float64 sums taken in another order"),
    "reordered": Tolerance(1e-4, 1e-5, "float32 sums taken in another order, through a few layers"),
    "reordered gradient": Tolerance(1e-3, 1e-5, "float32 sums over a batch, taken in another order and cancelling"),
    "compiled": Tolerance(1e-3, 1e-5, "fused kernels round at other places than eager ones"),
    "another runtime": Tolerance(1e-3, 1e-5, "kernels of another library, which sum and fuse in another order"),
    "half": Tolerance(5e-2, 5e-2, "bfloat16 has 8 bits, and rounds between layers"),
    "fitted": Tolerance(1e-4, 1e-4, "least squares stop at an error of 3e-7 of a weight, and float32 adds its own"),
    "conjugate gradients": Tolerance(1e-5, 1e-6, "float64 steps that stop where the squared residual no longer falls"),
    "finite differences": Tolerance(1e-5, 1e-7, "float64 central differences with a step of 1e-5"),
}


def assert_close(actual: object, expected: object, name: str) -> None:
    """Assert that two tensors, or two nested structures of tensors, agree within a row of the table."""
    tolerance = TOLERANCES[name]
    torch.testing.assert_close(
        actual,
        expected,
        rtol=tolerance.rtol,
        atol=tolerance.atol,
        equal_nan=True,
        msg=lambda text: f"{text}\nThe bound is {name!r}: {tolerance.reason}.",
    )
