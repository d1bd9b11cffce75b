"""Wall times of actions that take turns, so that a machine whose speed drifts slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

_WARM_UP = 3  # rounds


def timed(action: Callable[[], object], device: str = "cpu", clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds that an action takes, on a GPU until it has finished there."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    action()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def alternate(
    actions: Mapping[str, Callable[[], object]],
    rounds: int,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Time actions in turn, after three rounds to warm up, and return the median seconds of each.

    With ``time.process_time`` as the clock, what others do on the machine does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(rounds + _WARM_UP):
        for name, action in actions.items():
            taken = timed(action, device, clock)
            if turn >= _WARM_UP:
                seconds[name].append(taken)
    return {name: statistics.median(taken) for name, taken in seconds.items()}
