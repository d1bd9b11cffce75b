"""Muon for models whose weights are generated: it orthogonalises what a step does to each weight."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from shapeshift.errors import ConfigError, ModelError
from shapeshift.generators.mixed import MixedGenerator
from shapeshift.generators.recomputed import versions_of
from shapeshift.optimizer import parameter_groups
from shapeshift.running.modes import is_sharded
from shapeshift.surgery.attached import is_attached, weight_sources
from shapeshift.surgery.parts import sources_read_in

# The coefficients of the quintic polynomial, and how often it is applied.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_STEPS = 5

_RATES: dict[str, Callable[[int, int], float]] = {
    "original": lambda rows, columns: math.sqrt(max(1.0, rows / columns)),
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
}


class Muon(Optimizer):
    r"""Train a model by Muon, and what Muon is not for by AdamW.

    Muon (Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural networks") makes the momentum of a
    matrix orthogonal. The entries of a store are no matrix, but weights are linear in them: the store's momentum m
    generates the momentum :math:`G m` of every weight. That is made orthogonal, weight by weight, and goes back to the
    store by the adjoint: :math:`S G^T O`. The diagonal S scales each entry by the number and the factors of the weights
    that read it, so that an entry moves by the mean of what its readers ask for, and a weight that shares nothing
    moves as a plain one does under ``torch.optim.Muon``. A kernel counts as a matrix of one row for each output.

    Coefficients, biases, norms and embeddings are trained by AdamW, and so is a hypernetwork, which has no store. A
    step generates the weights of each group in turn, and holds those of one group and their updates in memory.

    Args:
        model: A compressed model, a plain one, or a wrapper around either (such as DDP).
        lr: The learning rate of Muon.
        weight_decay: The decoupled weight decay of matrices and stores, and of what AdamW decays: of
            :func:`shapeshift.parameter_groups`.
        momentum: The decay of the momentum.
        nesterov: Whether the momentum is Nesterov's.
        adjust_lr_fn: How the rate of a matrix follows from its shape, as in ``torch.optim.Muon``: ``"original"``
            raises it for matrices with more rows than columns; ``"match_rms_adamw"`` lets each update have the root
            mean square of AdamW's, so that rates of AdamW fit.
        adamw_lr: The learning rate of AdamW; None takes ``lr``.
        betas: The decay of AdamW's averages.
        eps: The term that AdamW adds to its denominator.

    Raises:
        ConfigError: If a value is out of range.
        ModelError: If nothing in the model is trainable; if an embedding is generated from the store of other weights;
            or if a store is sharded.

    Example:
        >>> import shapeshift, torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 16))
        >>> model = shapeshift.compress(model, "50%")
        >>> optimizer = shapeshift.Muon(model, lr=0.02, adamw_lr=0.001)
        >>> [group["use_muon"] for group in optimizer.param_groups]
        [True, False]
        >>> model(torch.randn(4, 16)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        adjust_lr_fn: str = "original",
        adamw_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        _check(lr, weight_decay, momentum, adjust_lr_fn)
        matrices, decayed, spared = parameter_groups(model, weight_decay, use_muon=True)
        self._generators = _matrix_generators(model)
        stores = {piece for generator in self._generators for piece in generator.store if piece.requires_grad}
        for piece in stores:
            if is_sharded(piece):
                raise ModelError(
                    "a store of the model is sharded, and Muon needs all entries of the weights: train it under DDP, "
                    "or use AdamW"
                )
        matrices["params"] += [found for found in decayed["params"] if found in stores]
        decayed["params"] = [found for found in decayed["params"] if found not in stores]
        own = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "adjust_lr_fn": adjust_lr_fn}
        others = [group for group in (decayed, spared) if group["params"]]
        groups = [{**matrices, **own}] if matrices["params"] else []
        #: AdamW for the other groups, which are in ``param_groups`` too.
        self._adamw = torch.optim.AdamW(others, adamw_lr or lr, betas, eps) if others else None
        super().__init__([*groups, *(self._adamw.param_groups if self._adamw else [])], {"use_muon": True, **own})
        #: The scale of each entry of a generator's store, and the versions of what it follows from.
        self._scales: dict[MixedGenerator[Any], tuple[list[int], list[Tensor]]] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step.

        Args:
            closure: A function that computes the loss and its gradients, or None.

        Returns:
            What the closure returns, or None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._adamw is not None:
            # Loading a state replaces both.
            self._adamw.param_groups = [group for group in self.param_groups if not group["use_muon"]]
            self._adamw.state = self.state
            self._adamw.step()
        for group in self.param_groups:
            if group["use_muon"]:
                self._step(group)
        return loss

    def _step(self, group: dict[str, Any]) -> None:
        updates = {
            parameter: self._momentum(parameter, group) for parameter in group["params"] if parameter.grad is not None
        }
        for generator in self._generators:
            pieces = [piece for piece in generator.store if piece in updates]
            if pieces:
                moves = self._moves(generator, {piece: updates.pop(piece) for piece in pieces}, group)
                for piece, move in zip(pieces, moves, strict=True):
                    piece.mul_(1 - group["lr"] * group["weight_decay"]).sub_(move)
        for parameter, update in updates.items():
            parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(_move(update, group))

    def _momentum(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """Take a parameter's gradient into its momentum, and return what is to be made orthogonal."""
        grad, state = parameter.grad, self.state[parameter]
        assert grad is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(grad)
        momentum: Tensor = state["momentum_buffer"].lerp_(grad, 1 - group["momentum"])
        return grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum

    def _moves(
        self, generator: MixedGenerator[Any], updates: dict[Tensor, Tensor], group: dict[str, Any]
    ) -> list[Tensor]:
        """Return how far each piece of a store with an update is to move."""
        store = [updates.get(piece, torch.zeros_like(piece)).detach() for piece in generator.store]
        with torch.enable_grad():
            leaves = [update.requires_grad_() for update in store]
            weights = generator.made_from(leaves)
        moves = [
            torch.zeros_like(weight) if index in generator.held else _move(weight.detach(), group)
            for index, weight in enumerate(weights)
        ]
        found = torch.autograd.grad(weights, leaves, moves)
        scaled = zip(generator.store, found, self._scale(generator), strict=True)
        return [move * scale for piece, move, scale in scaled if piece in updates]

    def _scale(self, generator: MixedGenerator[Any]) -> list[Tensor]:
        r"""Return the diagonal of S: :math:`1 / (|G|^T |G| 1)`, with which the norm of :math:`G S G^T` is at most 1.

        It is the separable bound of Erdogan and Fessler 1999 ("Ordered subsets algorithms for transmission
        tomography", Physics in Medicine and Biology 44(11)): one over the number of readers where weights read single
        entries as they are, and less where they add several up.
        """
        versions = versions_of([generator.gains, *generator.coefficient_parameters()])
        if generator not in self._scales or self._scales[generator][0] != versions:
            with torch.enable_grad():
                ones = [torch.ones_like(piece).requires_grad_() for piece in generator.store]
                weights = generator.made_from(ones, magnitudes=True)
            sums = torch.autograd.grad(weights, ones, [weight.detach() for weight in weights])
            scales = [torch.where(total > 0, 1 / total, 0.0) for total in sums]
            self._scales[generator] = versions, scales
        return self._scales[generator][1]


def orthogonal(matrix: Tensor) -> Tensor:
    """Replace the singular values of a matrix by ones, roughly: five steps of Newton and Schulz in bfloat16.

    Args:
        matrix: The matrix.

    Returns:
        A matrix of its shape, in bfloat16, whose singular values lie between 0.5 and 1.5 or so.
    """
    a, b, c = _QUINTIC
    found = matrix.to(torch.bfloat16, copy=True)
    tall = found.size(0) > found.size(1)
    found = found.T if tall else found
    found.div_(found.norm().clamp(min=1e-7))
    for _ in range(_STEPS):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.T if tall else found


def _move(update: Tensor, group: dict[str, Any]) -> Tensor:
    """Return how far a weight is to move along an update."""
    matrix = update.reshape(len(update), -1)
    rate = group["lr"] * _RATES[group["adjust_lr_fn"]](*matrix.shape)
    moved = orthogonal(matrix).to(update.dtype) * rate
    return moved.view_as(update)


def _matrix_generators(model: nn.Module) -> list[MixedGenerator[Any]]:
    """Return the generators whose stores Muon trains.

    Raises:
        ModelError: if one makes both embeddings and other weights.
    """
    embeddings = {
        weight_sources(module)["weight"]
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and is_attached(module)
    }
    found = []
    for source in sources_read_in(model):
        generator = source.generator
        inside = [index for owner, index in embeddings if owner is source]
        if inside and len(inside) < len(source.weights):
            name = source.weights[inside[0]].name
            raise ModelError(
                f"{name} is an embedding, which is for AdamW, and reads the same store as weights that are for Muon: "
                f"compress with exclude=[{name!r}], or give it a group of its own by mapping={{{name!r}: "
                '"embeddings", "*": "rest"}'
            )
        if isinstance(generator, MixedGenerator) and not inside:
            found.append(generator)
    return found


def _check(lr: float, weight_decay: float, momentum: float, adjust_lr_fn: str) -> None:
    for name, value in (("lr", lr), ("weight_decay", weight_decay), ("momentum", momentum)):
        if value < 0:
            raise ConfigError(f"{name} must be at least 0, not {value}")
    if adjust_lr_fn not in _RATES:
        raise ConfigError(f"adjust_lr_fn must be one of {', '.join(map(repr, _RATES))}, not {adjust_lr_fn!r}")
