"""Networks of different depth and width that draw on one set of shared parameters."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from shapeshift.budget import Budget
from shapeshift.checkpoint import load
from shapeshift.compression import compress, materialize
from shapeshift.config import Config
from shapeshift.errors import BudgetError, ConfigError, ModelError
from shapeshift.running.batches import Batches, Inputs, device_of, read_batch
from shapeshift.running.labels import members_probabilities, predict_all
from shapeshift.running.macs import count_macs
from shapeshift.running.modes import evaluating
from shapeshift.superweights.anytime import Durations, Limits, best_order, predict_in_turn
from shapeshift.surgery.install import write_weights
from shapeshift.surgery.roots import find_roots, require_shared


class Family(nn.Module):
    """Networks that share one set of parameters within a budget (Teterwak et al. 2024).

    The members may differ in depth and width; those that have layers of a kind, such as 3 x 3 convolutions, share
    SuperWeights. They remain ordinary modules that can be called and trained one by one; calling the family runs all
    of them. The family is a compressed model as any other: it is trained by one optimizer, saved by
    :func:`shapeshift.save`, and :func:`shapeshift.materialize` makes its members plain networks.

    Args:
        networks: the members; they are changed in place. They take the same arguments.
        budget: the most trainable parameters of all members together, as in :func:`shapeshift.compress`; a fraction is
            one of what the networks have by themselves. None leaves the networks as they are, which makes the family
            an ensemble.
        config: how to share; SuperWeights if None.
        **options: fields of :class:`shapeshift.Config` to set on top of ``config``. The weights are named after the
            place of their member, such as ``members.0.stem.weight``.

    Attributes:
        members: the networks.
        order: the indices of the members in the order in which :meth:`anytime` runs them; part of the checkpoint.

    Raises:
        BudgetError, ConfigError: as :func:`shapeshift.compress`. The networks are then unchanged.
        ModelError: if there is no network, one of them occurs twice, or it cannot be compressed.
    """

    order: Tensor

    def __init__(
        self, networks: Sequence[nn.Module], budget: Budget | None = None, config: Config | None = None, **options: Any
    ) -> None:
        super().__init__()
        if isinstance(networks, nn.Module) and not isinstance(networks, nn.ModuleList | nn.Sequential):
            raise ModelError(f"a family is made of a list of networks, not of a {type(networks).__name__}")
        members = list(networks)
        if not members:
            raise ModelError("a family needs at least one network")
        if len({id(network) for network in members}) < len(members):
            raise ModelError("a network occurs twice in the family; build each member by itself")
        if budget is None and (config is not None or options):
            raise ConfigError("config and options say how members share, and without a budget they do not")
        self.members = nn.ModuleList(members)
        self.register_buffer("order", torch.arange(len(members)))
        self._durations = Durations()
        self._macs: dict[Any, list[int]] = {}
        if budget is not None:
            compress(self, budget, config or Config(combine="superweights"), **options)

    @classmethod
    def load(cls, directory: str | os.PathLike[str], networks: Sequence[nn.Module]) -> Family:
        """Restore a family from :func:`shapeshift.save`.

        Args:
            directory: what was saved.
            networks: plain networks of the members' architectures, in the same order.

        Raises:
            CheckpointError, ModelError: as :func:`shapeshift.load`.
        """
        return load(directory, cls(networks))

    def forward(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Run every member on the same arguments, and return what each of them returned."""
        return [member(*args, **kwargs) for member in self.members]

    @torch.no_grad()
    def predict(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the members' probabilities, averaged, of shape (N, classes).

        Args:
            *args: of each member, which returns logits of shape (N, classes), or an object with ``.logits``.
            **kwargs: the same, by name.

        Raises:
            ModelError: if a member returns something else, or they tell different numbers of classes apart.
        """
        with evaluating(self):
            return members_probabilities(self(*args, **kwargs)).mean(0)

    def anytime(
        self,
        x: Any,
        budget_ms: float | None = None,
        macs: float | None = None,
        confidence: float | None = None,
    ) -> Iterator[Tensor]:
        """Predict with one member after the other, in ``order``, and yield the average after each of them.

        A member that is not expected to end in time is not started; how long it takes is known from earlier calls, or
        estimated from the members before it. Members of a compressed family generate their weights in each call: where
        time matters, materialize the family, or a copy of it.

        Args:
            x: the members' argument: a batch, of shape (N, ...), or a dict of arguments by name.
            budget_ms: how long the whole prediction may take, in milliseconds from when the first one is asked for. One
                member runs in any case.
            macs: the multiply-accumulates that it may take for a sample.
            confidence: samples for which a class has at least this probability are left to the members so far.

        Returns:
            A generator of probabilities, of shape (N, classes).

        Raises:
            BudgetError: if not even the first member fits ``macs``.
            ConfigError: if a limit is not positive, or a confidence more than 1.
            DataError: if there is no tensor in ``x``.
        """
        for name, value in (("budget_ms", budget_ms), ("macs", macs), ("confidence", confidence)):
            most = 1 if name == "confidence" else math.inf
            number = isinstance(value, Real) and not isinstance(value, bool)
            if value is not None and not (number and math.isfinite(value) and 0 < value <= most):
                raise ConfigError(f"{name} must be a positive number{' up to 1' if most == 1 else ''}, not {value!r}")
        inputs = read_batch(x, device_of(self))
        order = self.order.tolist()
        # To compare members with one another their costs on inputs of any shape will do.
        costs = next(iter(self._macs.values()), None) if macs is None else None
        costs = self._costs(inputs) if costs is None else costs
        if macs is not None and costs[order[0]] > macs:
            raise BudgetError(
                f"macs: the first member in family.order takes {costs[order[0]]:,} multiply-accumulates, and {macs:,} "
                "are allowed; allow more, or put a smaller member first"
            )
        limits = Limits(
            math.inf if budget_ms is None else budget_ms / 1000,
            math.inf if macs is None else macs,
            math.inf if confidence is None else confidence,
        )
        return predict_in_turn(list(self.members), order, costs, inputs, limits, self._durations)

    def choose_order(self, data: Iterable[Any]) -> list[int]:
        """Choose the order in which :meth:`anytime` runs the members, and keep it as ``order``.

        It is the order whose predictions have the best likelihood on average over all budgets of multiply-accumulates,
        up to that of all members.

        Args:
            data: batches ``(x, y)``, or dicts with "labels", that were used neither in training nor for a test.

        Returns:
            The members' indices.

        Raises:
            ConfigError: if there are more than 12 members.
            DataError: if the data is empty, or has no labels.
            ModelError: if a member returns no logits.
        """
        batches = Batches(data)
        probabilities, labels = predict_all(self, batches)
        order = best_order(probabilities, labels, self.count_macs(batches.first))
        self.order.copy_(torch.tensor(order))
        return order

    def count_macs(self, x: Any) -> list[int]:
        """Count the multiply-accumulates of each member for one sample, without those that generate weights.

        Args:
            x: the members' argument: a batch, of shape (N, ...), or a dict of arguments by name.

        Raises:
            DataError: if there is no tensor in ``x``.
        """
        return self._costs(read_batch(x, device_of(self)))

    def _costs(self, inputs: Inputs) -> list[int]:
        example = inputs.example()
        leaves = tree_leaves((example.args, example.kwargs))
        key = tuple((tuple(leaf.shape), leaf.dtype) for leaf in leaves if isinstance(leaf, Tensor))
        if key not in self._macs:
            self._macs[key] = [count_macs(self.extract(index), example) for index in range(len(self.members))]
        return self._macs[key]

    def extract(self, index: int) -> nn.Module:
        """Return a plain copy of one member, with the weights that it has now, that shares nothing with the family.

        Args:
            index: the member's place.

        Returns:
            A module of the member's own class, to be saved and deployed alone.
        """
        member = self.members[index]
        if find_roots(member):  # compressed by itself
            return materialize(copy.deepcopy(member))
        # The copy reads its weights once, and needs no copy of the parameters of all members for that.
        sources = require_shared(self).sources if find_roots(self) else []
        return write_weights(copy.deepcopy(member, {id(source): source for source in sources}))
