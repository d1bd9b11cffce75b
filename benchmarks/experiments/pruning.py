"""Pruning of a row's network: pretraining, plain or with shared parameters, and the removal of filters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from benchmarks.experiments.networks import Network, Training
from benchmarks.experiments.pretraining import pretrained
from shapeshift.prune import feature_ranks, hrank

_IMAGES = 256  # The ranks are measured on so many images.

Scores = dict[str, Tensor]


def pruned(
    network: Network,
    budget: str,
    training: Training,
    pretraining_budget: str = "",
    importance: str = "hrank",
    rescale: bool = False,
    rates: float | Sequence[float] = 0.5,
) -> nn.Module:
    """Pretrain a network and remove filters. The result is still to be fine-tuned.

    Args:
        network: The network that is built.
        budget: Empty, because the rates decide the size.
        training: The training that it is built for and pretrained by.
        pretraining_budget: The budget of shared parameters in pretraining. Empty pretrains plain parameters.
        rescale: Whether weights before a batch norm get back the length that they started with. This leaves the
            network's outputs as they are, and lets fine-tuning turn the weights as fast as it turns plain ones.
        importance: The score of a filter: "hrank", "magnitude" (the L1 norm of a filter) or "random".
        rates: The share of filters to remove, for all layers or for each 3x3 convolution in turn, as papers list them.
    """
    model = pretrained(network, pretraining_budget, training)
    if rescale:
        model = _rescaled(model, network, training)
    batches = training.data.images[:_IMAGES].to(training.device).split(64)
    ranks = feature_ranks(model, batches, progress=False)
    scores = _IMPORTANCES[importance](model, ranks, training.seed)
    if isinstance(rates, float):
        return hrank(model, batches, rates, ranks=scores, progress=False)
    # The papers' shortcuts have no weights. Layers whose maps are a single pixel have no rank, and stay whole.
    listed = [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and not path.endswith("shortcut")
    ]
    by_layer = {path: rate for path, rate in zip(listed, rates, strict=True) if path in ranks}
    return hrank(model, batches, by_layer, ranks=scores, progress=False)


@torch.no_grad()
def _rescaled(model: nn.Module, network: Network, training: Training) -> nn.Module:
    torch.manual_seed(training.seed)
    fresh, model = network.build(training.data), copy.deepcopy(model)
    modules = dict(model.named_modules())
    for path, module in modules.items():
        parent, _, name = path.rpartition(".")
        norm = modules.get(f"{parent}.{name.replace('conv', 'norm')}")
        if isinstance(module, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            factor = fresh.get_parameter(f"{path}.weight").norm().to(training.device) / module.weight.norm()
            module.weight *= factor
            norm.running_mean *= factor
            norm.running_var *= factor**2
    return model


def _magnitudes(model: nn.Module, ranks: Scores, seed: int) -> Scores:
    weights = {path: model.get_parameter(f"{path}.weight").detach() for path in ranks}
    return {path: weight.abs().flatten(1).sum(1).cpu() for path, weight in weights.items()}


def _chances(model: nn.Module, ranks: Scores, seed: int) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    return {path: torch.rand(len(found), generator=generator) for path, found in ranks.items()}


# From the name of an importance to a function that scores each filter, given the model, the ranks and a seed.
_IMPORTANCES: dict[str, Callable[[nn.Module, Scores, int], Scores]] = {
    "hrank": lambda model, ranks, seed: ranks,
    "magnitude": _magnitudes,
    "random": _chances,
}
