"""Anytime predictions: members of a family run one after another, and each improves the average."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from shapeshift.errors import ConfigError, ModelError
from shapeshift.running.batches import Inputs
from shapeshift.running.labels import probabilities_of
from shapeshift.running.modes import evaluating
from shapeshift.superweights.metrics import nll

# The search looks at all 4096 subsets of so many members.
MOST_ORDERED = 12


def best_order(probabilities: Tensor, labels: Tensor, costs: Sequence[float]) -> list[int]:
    """Return the order of members whose anytime predictions have the best likelihood, averaged over all budgets.

    Budgets are uniform between 0 and the cost of all members. Before the first member is finished, all classes are
    equally likely.

    Args:
        probabilities: The members' probabilities on data that no member was trained on, of shape
            (members, N, classes).
        labels: The classes of the samples, of shape (N,).
        costs: The cost of each member, in any unit.

    Raises:
        ConfigError: If there are more than 12 members.
    """
    members = range(len(costs))
    if len(costs) > MOST_ORDERED:
        raise ConfigError(
            f"an order can be chosen for up to {MOST_ORDERED} members, not {len(costs)}; set one yourself, "
            "by family.order.copy_(torch.tensor([...]))"
        )
    loss = {frozenset[int](): math.log(probabilities.shape[2])}
    # The best order for each subset, with the integral of the negative log-likelihood over the cost.
    best: dict[frozenset[int], tuple[float, tuple[int, ...]]] = {frozenset(): (0.0, ())}
    for size in range(1, len(costs) + 1):
        for subset in map(frozenset, itertools.combinations(members, size)):
            loss[subset] = nll(probabilities[sorted(subset)].mean(0), labels)
            ways = ((best[subset - {last}], subset - {last}, last) for last in sorted(subset))
            best[subset] = min(
                (area + loss[before] * costs[last], (*order, last)) for (area, order), before, last in ways
            )
    return list(best[frozenset(members)][1])


Run = tuple[int, tuple[tuple[int, ...], ...]]  # a member's index, and the shapes of what it runs on


@dataclass
class Durations:
    """The durations of members' last runs, from which the next ones are estimated.

    Attributes:
        seconds: The durations of the last five runs of each member on inputs of each shape.
    """

    seconds: dict[Run, deque[float]] = field(default_factory=dict)

    def expected(self, run: Run) -> float | None:
        """Return the shortest of a member's last runs, since other processes slow some of them down.

        It is None before the second run: the first is too noisy, and a slow one would bar the member for good.
        """
        last = self.seconds.get(run, ())
        return min(last) if len(last) > 1 else None

    def add(self, run: Run, seconds: float) -> None:
        """Record the duration of a run."""
        self.seconds.setdefault(run, deque(maxlen=5)).append(seconds)


@dataclass
class Limits:
    """The limits at which an anytime prediction stops.

    Attributes:
        seconds: The duration of the whole prediction.
        macs: The number of multiply-accumulates for one sample.
        confidence: The probability of a class at which a sample needs no further member.
    """

    seconds: float = math.inf
    macs: float = math.inf
    confidence: float = math.inf


def predict_in_turn(
    members: Sequence[nn.Module],
    order: Sequence[int],
    macs: Sequence[int],
    inputs: Inputs,
    limits: Limits,
    durations: Durations,
) -> Iterator[Tensor]:
    """Run members in turn, and yield the mean probabilities of the finished ones.

    A member that would not finish in time is not started, and neither is any after it. Its expected duration is the
    shortest of its last runs on inputs of these shapes. Before it has run twice, the duration is estimated from the
    multiply-accumulates per second of the members before it. The first member always runs.

    Args:
        members: The classifiers.
        order: The indices of the members, in the order to run them.
        macs: The multiply-accumulates of each member for one sample. They may be those for other shapes of inputs if
            ``limits`` does not limit them.
        inputs: The arguments of each member. Their tensors have shape (N, ...).
        limits: The limits at which to stop.
        durations: The known durations of members. New ones are recorded.

    Yields:
        The probabilities after each member, of shape (N, classes). Those of confident samples no longer change.
    """
    start, spent = perf_counter(), 0
    rate = 0.0  # seconds per multiply-accumulate and sample
    total = current = unsure = torch.empty(0)
    for finished, index in enumerate(order):
        spent += macs[index]
        if spent > limits.macs:
            return
        chosen = _select(inputs, unsure) if finished else inputs
        shapes = tuple(tuple(leaf.shape) for leaf in tree_leaves((chosen.args, chosen.kwargs)) if torch.is_tensor(leaf))
        samples = shapes[0][0]
        expected = durations.expected((index, shapes))
        if expected is None:
            expected = rate * macs[index] * samples
        started = perf_counter()
        if finished and started - start + expected > limits.seconds:
            return
        found = _probabilities(members[index], chosen)
        took = perf_counter() - started
        durations.add((index, shapes), took)
        rate = max(rate, took / max(1, macs[index] * samples))
        if finished and found.shape[1] != total.shape[1]:
            raise ModelError(
                f"the members predict different numbers of classes, {total.shape[1]} and {found.shape[1]}; an ensemble "
                "needs the same classes from all"
            )
        if finished:
            total = total.index_put((unsure,), found, accumulate=True)
            current = torch.where(unsure[:, None], total / (finished + 1), current)
        else:
            total = current = found
            unsure = torch.ones(len(found), dtype=torch.bool, device=found.device)
        yield current
        unsure = unsure & (current.amax(1) < limits.confidence)
        if not unsure.any():
            return


@torch.no_grad()
def _probabilities(member: nn.Module, inputs: Inputs) -> Tensor:
    with evaluating(member):
        found = probabilities_of(inputs.run(member))
    if found.is_cuda:  # the duration is that of finished kernels
        torch.cuda.synchronize(found.device)
    return found


def _select(inputs: Inputs, chosen: Tensor) -> Inputs:
    if chosen.all():
        return inputs
    args, kwargs = tree_map_only(Tensor, lambda tensor: tensor[chosen.to(tensor.device)], (inputs.args, inputs.kwargs))
    return Inputs(args, kwargs)
