"""What is asked of one model: compress, forward, backward, materialize."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import shapeshift
from shapeshift.budget import parse_budget
from shapeshift.plan import budget_range
from shapeshift.surgery.roots import require_shared

BUDGET = "25%"
UNFINISHED = "does not end"


@dataclass(frozen=True)
class Attempt:
    """One way to build a model and to call it.

    Attributes:
        description: A text on the sizes that were chosen, such as the side of an image.
        build: A function that makes the model. It is called on the meta device first, where it costs nothing.
        call: A function that runs the forward pass of the model on a batch that is the same each time.
        most: The largest number of parameters of a model that is built with memory.
    """

    description: str
    build: Callable[[], nn.Module]
    call: Callable[[nn.Module], Any]
    most: int


class CheckError(Exception):
    """Something that a model has to do and does not."""


class TooLargeError(Exception):
    """A model with more parameters than there is memory or time for."""


def check(attempts: Iterable[Attempt]) -> Iterator[dict[str, Any]]:
    """Take the first attempt that runs while it is dense through all stages.

    Args:
        attempts: Ways to build the model, each as large as the one before or larger.

    Yields:
        The result so far, as a dict. The last one is the result. Its "outcome" is "passed", "failed" or "not run". The
        latter two have a "reason", and a failure has a "stage". A model that runs has the description of the "attempt"
        and its parameter counts, "dense" and "compressed".
    """
    reasons = []
    for attempt in attempts:
        try:
            model, dense = _run_dense(attempt)
        except TooLargeError as error:
            reasons.append(str(error))
            break
        except Exception as error:
            reasons.append(explain(error))
            continue
        found: dict[str, Any] = {"attempt": attempt.description, "dense": dense.parameters}
        for stage, run in _STAGES.items():
            yield {**found, "outcome": "failed", "stage": stage, "reason": UNFINISHED}
            try:
                found |= run(model, attempt, dense) or {}
            except Exception as error:
                yield {**found, "outcome": "failed", "stage": stage, "reason": explain(error)}
                return
        yield {**found, "outcome": "passed"}
        return
    # The first attempt is the one that would be made to work.
    yield {"outcome": "not run", "reason": reasons[0]}


def explain(error: BaseException) -> str:
    """Return an error as one line."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    text = text if isinstance(error, CheckError) else f"{type(error).__name__}: {text}"
    return text[:300].removesuffix(": ")


@dataclass(frozen=True)
class _Dense:
    """A model's properties before it is compressed."""

    parameters: int
    shapes: dict[str, tuple[int, ...]]
    classes: dict[str, type[nn.Module]]
    outputs: list[tuple[int, ...]]
    trained: set[str]


def _run_dense(attempt: Attempt) -> tuple[nn.Module, _Dense]:
    """Build a model, train and evaluate it once, and describe it."""
    with torch.device("meta"):
        if shapeshift.count_parameters(attempt.build()) > attempt.most:
            raise TooLargeError(f"more than {attempt.most:,} parameters")
    torch.manual_seed(0)
    model = attempt.build()
    _train(model, attempt)
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    _require_finite_gradients(model)
    with torch.no_grad():
        outputs = _evaluate(model, attempt)
    _require_numbers(outputs)
    model.zero_grad()
    return model, _Dense(
        shapeshift.count_parameters(model), _shapes(model), _classes(model), [out.shape for out in outputs], trained
    )


def _compress(model: nn.Module, attempt: Attempt, dense: _Dense) -> dict[str, int]:
    model.train()  # where models drop the tensors that they keep for evaluation
    least, _ = budget_range(model, shapeshift.Config())
    budget = max(parse_budget(BUDGET, dense.parameters), least)
    shapeshift.compress(model, budget)
    compressed = shapeshift.count_parameters(model)
    if not 0.99 * budget <= compressed <= budget:
        raise CheckError(f"{compressed:,} parameters for a budget of {budget:,}")
    return {"compressed": compressed}


@torch.no_grad()
def _forward(model: nn.Module, attempt: Attempt, dense: _Dense) -> None:
    outputs = _evaluate(model, attempt)
    if [out.shape for out in outputs] != dense.outputs:
        raise CheckError("the outputs have other shapes than those of the dense model")
    _require_numbers(outputs)


def _backward(model: nn.Module, attempt: Attempt, dense: _Dense) -> None:
    """Require a finite gradient of each store that a weight is made from which had one when dense."""
    _train(model, attempt)
    used = [
        group
        for group in require_shared(model).generators()
        if any(name in dense.trained for weight in group.weights for name in weight.names)
    ]
    if not used:
        raise CheckError("no weight that had a gradient is generated")
    for group in used:
        for name, parameter in group.named_parameters():
            if name.startswith("store") and parameter.grad is None:
                raise CheckError(f"the {name} that {group.weights[0].name} is made from has no gradient")
    _require_finite_gradients(model)
    model.zero_grad()


def _materialize(model: nn.Module, attempt: Attempt, dense: _Dense) -> None:
    # With gradients: torch picks other kernels, which round otherwise, for weights that ask for none.
    expected = _evaluate(model, attempt)
    shapeshift.materialize(model)
    for one, other in zip(_evaluate(model, attempt), expected, strict=True):
        if not torch.equal(one.nan_to_num(), other.nan_to_num()):
            distance = (one.double() - other.double()).abs().max() / other.double().abs().max()
            raise CheckError(f"the outputs are not the compressed model's: {distance:.1e} away")
    if shapeshift.is_compressed(model) or _classes(model) != dense.classes:
        raise CheckError("a layer has not its class back")
    if _shapes(model) != dense.shapes or shapeshift.count_parameters(model) != dense.parameters:
        raise CheckError("the state dict, or what it ties, is not as it was")


_STAGES: dict[str, Callable[[nn.Module, Attempt, _Dense], dict[str, int] | None]] = {
    "compress": _compress,
    "forward": _forward,
    "backward": _backward,
    "materialize": _materialize,
}


def tensors(output: Any) -> list[Tensor]:
    """Return the floating-point tensors in whatever a model returned."""
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def loss_of(output: Any) -> Tensor:
    """Return a scalar in which every finite output counts, each with a weight of its own."""
    terms = []
    for tensor in tensors(output):
        if tensor.requires_grad and tensor.numel():
            weights = torch.linspace(0.5, 1.5, tensor.numel(), device=tensor.device).view(tensor.shape)
            terms.append((tensor.float().masked_fill(tensor.isinf(), 0) * weights).square().mean())
    return torch.stack(terms).sum()


def _train(model: nn.Module, attempt: Attempt) -> None:
    model.train()
    torch.manual_seed(0)
    loss_of(attempt.call(model)).backward()


def _evaluate(model: nn.Module, attempt: Attempt) -> list[Tensor]:
    # By way of the training mode, where models drop the tensors that they keep for evaluation.
    model.train().eval()
    torch.manual_seed(0)
    return [tensor.detach().clone() for tensor in tensors(attempt.call(model))]


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(getattr(value, "shape", ())) for name, value in model.state_dict().items()}


def _classes(model: nn.Module) -> dict[str, type[nn.Module]]:
    return {name: type(module) for name, module in model.named_modules()}


def _require_finite_gradients(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            raise CheckError(f"the gradient of {name} is not finite")


def _require_numbers(outputs: list[Tensor]) -> None:
    if not outputs or any(tensor.isnan().any() for tensor in outputs):
        raise CheckError("the outputs are not numbers")
