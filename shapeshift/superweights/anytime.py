"""Predictions that get better the longer one waits: members of a family one after another."""

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

# All subsets of the members are looked at: 4096 of them.
MOST_ORDERED = 12


def best_order(probabilities: Tensor, labels: Tensor, costs: Sequence[float]) -> list[int]:
    """Return the order of members in which the likelihood of what is finished is best on average over all costs.

    The average is over a cost that is equally likely to be anything up to that of all members together. Before the
    first member is finished, all classes are equally likely.

    Args:
        probabilities: of shape (members, N, classes), on data that no member was trained on.
        labels: of shape (N,).
        costs: of each member.

    Raises:
        ConfigError: if there are more than 12 members.
    """
    members = range(len(costs))
    if len(costs) > MOST_ORDERED:
        raise ConfigError(
            f"an order can be chosen for up to {MOST_ORDERED} members, not {len(costs)}; set one yourself, "
            "by family.order.copy_(torch.tensor([...]))"
        )
    loss = {frozenset[int](): math.log(probabilities.shape[2])}
    # The best way to finish each subset: the negative log-likelihood summed over the cost, and the order.
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
    """How long members took when they ran last, to tell how long they will take.

    Attributes:
        seconds: of the last runs.
    """

    seconds: dict[Run, deque[float]] = field(default_factory=dict)

    def expected(self, run: Run) -> float | None:
        """Return the least of a member's last runs: what else goes on in a machine makes some of them slow.

        The first run by itself tells too little, and a member that is not run again for its sake never gets another.
        """
        last = self.seconds.get(run, ())
        return min(last) if len(last) > 1 else None

    def add(self, run: Run, seconds: float) -> None:
        """Note how long a run took."""
        self.seconds.setdefault(run, deque(maxlen=5)).append(seconds)


@dataclass
class Limits:
    """Where an anytime prediction stops.

    Attributes:
        seconds: how long it may take in all.
        macs: the multiply-accumulates that it may take for a sample.
        confidence: the probability of a class from which on a sample needs no further member.
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
    """Run members in turn, and yield the mean probabilities of those that are finished.

    A member that would not be finished in time is not started, and neither is any after it. How long it takes is the
    least of what it took on inputs of these shapes when it ran last. Before it has run twice it is estimated from the
    multiply-accumulates per second of the members before it; about the first member nothing may be known, and it runs
    in any case.

    Args:
        members: classifiers.
        order: their indices, in the order to run in.
        macs: the multiply-accumulates of each member for a sample; on inputs of other shapes, unless they are limited.
        inputs: of shape (N, ...) each.
        limits: where to stop.
        durations: what is known of the members' durations; it is added to.

    Yields:
        Probabilities of shape (N, classes), after each member. Those of samples that are confident stay as they are.
    """
    begin, spent = perf_counter(), 0
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
        if finished and started - begin + expected > limits.seconds:
            return
        found = _probabilities(members[index], chosen)
        took = perf_counter() - started
        durations.add((index, shapes), took)
        rate = max(rate, took / max(1, macs[index] * samples))
        if finished and found.shape[1] != total.shape[1]:
            raise ModelError(
                f"the members tell {total.shape[1]} and {found.shape[1]} classes apart: only those of equal classes "
                "predict together"
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
    if found.is_cuda:  # what is not finished yet is of no use
        torch.cuda.synchronize(found.device)
    return found


def _select(inputs: Inputs, chosen: Tensor) -> Inputs:
    if chosen.all():
        return inputs
    args, kwargs = tree_map_only(Tensor, lambda tensor: tensor[chosen.to(tensor.device)], (inputs.args, inputs.kwargs))
    return Inputs(args, kwargs)
