"""Optimizers of torch and timm: a few steps lower the loss on one batch, as they do on the plain model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2, list_optimizers
from torch import nn

import shapeshift
from benchmarks.compatibility.check import PlainFailsError, check, images, pair

STEPS = 5
#: Optimizers that need another kind of parameters, gradients or step than all others.
OTHER_KINDS = {"LBFGS", "SparseAdam", "Optimizer"}


def _lowers(make: object, model: nn.Module) -> bool:
    """Tell whether a few steps lower the loss on one batch."""
    torch.manual_seed(1)
    x, y = images(), torch.randint(10, (4,))
    optimizer = make(model)  # type: ignore[operator]
    losses = []
    second_order = getattr(optimizer, "is_second_order", False)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward(create_graph=second_order)
        optimizer.step()
        losses.append(loss.item())
    return losses[-1] < losses[0]


def _register(group: str, name: str, make: object) -> None:
    @check(group, name)
    def _steps() -> None:
        compressed, plain = pair()
        try:
            expected = _lowers(make, plain)
        except Exception as error:
            raise PlainFailsError(str(error)) from None
        assert _lowers(make, compressed) or not expected


for _name in sorted(set(torch.optim.__all__) - OTHER_KINDS if hasattr(torch.optim, "__all__") else ()):
    _class = getattr(torch.optim, _name)
    if isinstance(_class, type) and issubclass(_class, torch.optim.Optimizer):
        _register(
            "optimizers of torch",
            _name,
            lambda model, kind=_class: kind(shapeshift.parameter_groups(model, weight_decay=0.01)),
        )

for _name in list_optimizers():
    _register(
        "optimizers of timm", _name, lambda model, name=_name: create_optimizer_v2(model, name, lr=1e-3, momentum=0.9)
    )
