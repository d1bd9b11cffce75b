"""Optimizers of torch and timm: a few steps lower the loss on one batch, as they do on the plain model."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2, list_optimizers  # type: ignore[attr-defined]
from torch import nn
from torch.optim import Optimizer

from benchmarks.compatibility.check import PlainFailsError, check, images, pair
from shapeshift import parameter_groups

STEPS = 5
#: Optimizers that need another kind of parameters, gradients or step than all others.
OTHER_KINDS = {"LBFGS", "SparseAdam", "Optimizer"}


def _lowers(make: Callable[[nn.Module], Optimizer], model: nn.Module) -> bool:
    """Tell whether a few steps lower the loss on one batch."""
    torch.manual_seed(1)
    x, y = images(), torch.randint(10, (4,))
    optimizer = make(model)
    losses = []
    second_order = getattr(optimizer, "is_second_order", False)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward(create_graph=second_order)
        optimizer.step()
        losses.append(loss.item())
    return losses[-1] < losses[0]


def _register(group: str, name: str, make: Callable[[nn.Module], Optimizer]) -> None:
    @check(group, name)
    def _steps() -> None:
        compressed, plain = pair()
        try:
            expected = _lowers(make, plain)
        except Exception as error:
            raise PlainFailsError(str(error)) from None
        assert _lowers(make, compressed) or not expected


def _torch_optimizers() -> dict[str, Callable[..., Optimizer]]:
    """Return the optimizers of torch by name."""
    named = {name: getattr(torch.optim, name) for name in dir(torch.optim) if name not in OTHER_KINDS}
    return {name: kind for name, kind in named.items() if isinstance(kind, type) and issubclass(kind, Optimizer)}


def _from_torch(kind: Callable[..., Optimizer]) -> Callable[[nn.Module], Optimizer]:
    return lambda model: kind(parameter_groups(model, weight_decay=0.01))


def _from_timm(name: str) -> Callable[[nn.Module], Optimizer]:
    return lambda model: create_optimizer_v2(model, name, lr=1e-3, momentum=0.9)  # type: ignore[no-any-return]


for _name, _kind in _torch_optimizers().items():
    _register("optimizers of torch", _name, _from_torch(_kind))

for _timm_name in map(str, list_optimizers()):
    _register("optimizers of timm", _timm_name, _from_timm(_timm_name))
