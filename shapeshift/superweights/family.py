"""Families: networks of different depth and width on one set of shared parameters."""

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

    The members may differ in depth and width. Layers of one kind, such as 3 x 3 convolutions, share SuperWeights. The
    members remain ordinary modules that can be called and trained one by one, and a call of the family runs all of
    them. A family is a compressed model like any other: one optimizer trains it, :func:`shapeshift.save` saves it, and
    :func:`shapeshift.materialize` makes its members plain networks.

    Args:
        networks: The members, which take the same arguments. They are changed in place.
        budget: The largest number of trainable parameters of all members together, as in :func:`shapeshift.compress`.
            A fraction refers to the sum of the networks' own parameters. None leaves the networks as they are, which
            makes the family an ensemble.
        config: The options of the sharing. None stands for SuperWeights.
        **options: Fields of :class:`shapeshift.Config` that replace those of ``config``. The path of a weight starts
            with the place of its member, such as ``members.0.stem.weight``.

    Attributes:
        members: The networks.
        order: The indices of the members in the order in which :meth:`anytime` runs them. It is part of the
            checkpoint.

    Raises:
        BudgetError, ConfigError: As in :func:`shapeshift.compress`. The networks are then unchanged.
        ModelError: If there is no network, a network occurs twice, or one cannot be compressed.

    Example:
        >>> import shapeshift, torch
        >>> from shapeshift.networks.wide_resnet import WideResNet
        >>> from shapeshift.superweights import Family
        >>> networks = [WideResNet(10, 0.5), WideResNet(10, 0.25)]
        >>> separate = sum(map(shapeshift.count_parameters, networks))
        >>> family = Family(networks, budget="90%")
        >>> shapeshift.count_parameters(family) <= 0.9 * separate
        True
        >>> images = torch.randn(8, 3, 8, 8)
        >>> [logits.shape for logits in family(images)]  # of each member
        [torch.Size([8, 10]), torch.Size([8, 10])]
        >>> family.predict(images).shape  # the mean probabilities
        torch.Size([8, 10])
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
            directory: The folder of the checkpoint.
            networks: Plain networks of the members' architectures, in the same order.

        Raises:
            CheckpointError, ModelError: As in :func:`shapeshift.load`.
        """
        return load(directory, cls(networks))

    def forward(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Run every member on the same arguments, and return the list of their outputs."""
        return [member(*args, **kwargs) for member in self.members]

    @torch.no_grad()
    def predict(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the mean of the members' probabilities.

        Args:
            *args: The positional arguments of each member. A member returns logits of shape (N, classes), or an object
                with ``.logits``.
            **kwargs: The keyword arguments of each member.

        Returns:
            The probabilities, of shape (N, classes).

        Raises:
            ModelError: If a member returns something else, or members predict different numbers of classes.
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

        A member is not started if it is not expected to finish in time. Its duration is known from earlier calls, or
        estimated from the members before it. The members of a compressed family generate their weights in each call.
        Materialize the family, or a copy of it, for the highest speed.

        Args:
            x: The members' argument: a batch, of shape (N, ...), or a dict of arguments by name.
            budget_ms: The time for the whole prediction in milliseconds, from the first request to the generator. The
                first member always runs.
            macs: The largest number of multiply-accumulates for one sample.
            confidence: The probability of a class, above 0 and at most 1, at which a sample is not passed to further
                members.

        Returns:
            A generator of probabilities, of shape (N, classes).

        Raises:
            BudgetError: If the first member exceeds ``macs``.
            ConfigError: If a limit is not positive, or the confidence is more than 1.
            DataError: If there is no tensor in ``x``.
        """
        for name, value in (("budget_ms", budget_ms), ("macs", macs), ("confidence", confidence)):
            most = 1 if name == "confidence" else math.inf
            number = isinstance(value, Real) and not isinstance(value, bool)
            if value is not None and not (number and math.isfinite(value) and 0 < value <= most):
                raise ConfigError(f"{name} must be a positive number{' up to 1' if most == 1 else ''}, not {value!r}")
        inputs = read_batch(x, device_of(self))
        order = self.order.tolist()
        # Costs for inputs of any shape are good enough to compare members with each other.
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

        The order has the best likelihood of its predictions, averaged over all budgets of multiply-accumulates up to
        that of all members.

        Args:
            data: Validation data: batches ``(x, y)``, or dicts with "labels".

        Returns:
            The indices of the members.

        Raises:
            ConfigError: If there are more than 12 members.
            DataError: If the data is empty, or has no labels.
            ModelError: If a member returns no logits.
        """
        batches = Batches(data)
        probabilities, labels = predict_all(self, batches)
        order = best_order(probabilities, labels, self.count_macs(batches.first))
        self.order.copy_(torch.tensor(order))
        return order

    def count_macs(self, x: Any) -> list[int]:
        """Count the multiply-accumulates of each member for one sample, without those that generate weights.

        Args:
            x: The members' argument: a batch, of shape (N, ...), or a dict of arguments by name.

        Returns:
            The count of each member, in the order of the family.

        Raises:
            DataError: If there is no tensor in ``x``.
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
        """Return a plain copy of one member with its present weights, which shares nothing with the family.

        Args:
            index: The index of the member.

        Returns:
            A module of the member's own class, which can be saved and deployed alone.
        """
        member = self.members[index]
        if find_roots(member):  # compressed by itself
            return materialize(copy.deepcopy(member))
        # The copy reads its weights once, so the parameters of all members need not be copied.
        sources = require_shared(self).sources if find_roots(self) else []
        return write_weights(copy.deepcopy(member, {id(source): source for source in sources}))
