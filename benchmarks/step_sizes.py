"""How far a step of an optimizer moves the weights of a compressed model, relative to those of the dense model.

    python -m benchmarks.step_sizes    # some minutes; writes JSON and a table

Both models start from the same weights and see the same batches. Without weight decay, each weight then has moved by
some distance after a few steps. The ratio of the two distances tells whether a learning rate of the dense model fits
the compressed one.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from timm.optim._optim_factory import create_optimizer_v2
from timm.utils.agc import adaptive_clip_grad
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

import shapeshift
from benchmarks.machine import describe, made_by
from benchmarks.markdown import markdown_table
from benchmarks.results import RESULTS, write_json
from shapeshift.networks.wide_resnet import WideResNet
from shapeshift.surgery.roots import require_shared

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "WRN-16-1": lambda: WideResNet(16, 1),
    "transformer": lambda: VisionTransformer(
        img_size=16, patch_size=4, embed_dim=64, depth=4, num_heads=4, num_classes=10
    ),
}
BUDGETS = ("25%", "100%")
SIDE = 16

# Makes the optimizers of a model.
Start = Callable[[nn.Module], Sequence[Optimizer]]


def _groups(model: nn.Module) -> list[dict[str, Any]]:
    return [group for group in shapeshift.parameter_groups(model, 0.0) if group["params"]]


def _torch(name: str, lr: float = 1e-3) -> Start:
    return lambda model: [getattr(torch.optim, name)(_groups(model), lr=lr)]


def _timm(name: str, **options: Any) -> Start:
    return lambda model: [create_optimizer_v2(_groups(model), opt=name, lr=1e-3, **options)]


# Muon's update of a matrix has a root mean square of 0.2 learning rates where it is to match AdamW's in training.
MUON_SHARE = 0.2


def _muon_by_shape(model: nn.Module) -> list[Optimizer]:
    """Give torch's Muon, as it is by default, every tensor of two dimensions."""
    parameters = [parameter for group in _groups(model) for parameter in group["params"]]
    return [
        torch.optim.Muon([p for p in parameters if p.dim() == 2], lr=1e-3, weight_decay=0.0),
        torch.optim.AdamW([p for p in parameters if p.dim() != 2], lr=1e-3, weight_decay=0.0),
    ]


def _muon_by_groups(model: nn.Module) -> list[Optimizer]:
    """Give torch's Muon the matrices that are not generated, and AdamW the rest at a rate that matches."""
    matrices, *others = shapeshift.parameter_groups(model, 0.0, use_muon=True)
    return [
        torch.optim.Muon([matrices], lr=1e-3, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=MUON_SHARE * 1e-3, weight_decay=0.0),
    ]


def _own_muon(model: nn.Module) -> list[Optimizer]:
    """Give this library's Muon all parameters, and AdamW's part of them a rate that matches."""
    rates: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.0, "adamw_lr": MUON_SHARE * 1e-3}
    return [shapeshift.Muon(model, adjust_lr_fn="match_rms_adamw", **rates)]


TORCH_RATES = {"Adadelta": 1.0, "SGD": 1e-2}
TORCH = (
    *("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop"),
    "SGD",
)
# One name of each, since timm has cautious and decoupled variants of many. Kron is left out because it has to be
# compiled, and AdaHessian because torch lacks the second derivatives of attention.
TIMM = (
    *("adabelief", "adafactor", "adafactorbv", "adamp", "adan", "adopt", "lamb", "laprop"),
    *("larc", "lars", "lion", "madgrad", "mars", "muon", "adamuon", "nadamuon", "nadamw", "novograd", "rmsproptf"),
    *("sgdp", "sgdw"),
)
OPTIMIZERS: dict[str, Start] = {
    **{f"torch {name}": _torch(name, TORCH_RATES.get(name, 1e-3)) for name in TORCH},
    "torch Muon, by shape": _muon_by_shape,
    "torch Muon, use_muon=True": _muon_by_groups,
    "shapeshift Muon": _own_muon,
    **{f"timm {name}": _timm(name) for name in TIMM},
    "timm muon, fallback_lr_scale=0.2": _timm("muon", fallback_lr_scale=MUON_SHARE),
    "SGD, adaptive clipping": _torch("SGD", 1e-2),
    "SGD, norm clipping": _torch("SGD", 1e-2),
    "SGD, centralized": _torch("SGD", 1e-2),
}


def _centralize(model: nn.Module) -> None:
    """Subtract the mean of each output channel's gradient (Yong et al., "Gradient Centralization", ECCV 2020)."""
    for parameter in model.parameters():
        if parameter.grad is not None and parameter.dim() > 1:
            parameter.grad -= parameter.grad.flatten(1).mean(1).view(-1, *[1] * (parameter.dim() - 1))


RULES: dict[str, Callable[[nn.Module], object]] = {
    "SGD, adaptive clipping": lambda model: adaptive_clip_grad(model.parameters(), clip_factor=0.01),  # type: ignore[no-untyped-call]
    "SGD, norm clipping": lambda model: nn.utils.clip_grad_norm_(model.parameters(), 0.1),
    "SGD, centralized": _centralize,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_sizes", description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=3, help="steps of each optimizer (default: 3)")
    parser.add_argument("--optimizers", nargs="+", choices=list(OPTIMIZERS), default=list(OPTIMIZERS))
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--output", type=Path, default=RESULTS / "step_sizes.json", help="the JSON file")
    arguments = parser.parse_args(argv)

    torch.set_num_threads(1)
    results: dict[str, dict[str, float]] = {}
    jobs = [
        (name, network, budget) for name in arguments.optimizers for network in arguments.networks for budget in BUDGETS
    ]
    for name, network, budget in tqdm(jobs, desc="step sizes"):
        results.setdefault(name, {})[f"{network}, {budget}"] = measure(name, NETWORKS[network], budget, arguments.steps)
    content = {"machine": describe("cpu"), "steps": arguments.steps, "seed": 0, "results": results}
    write_json(arguments.output, content)
    table = render(content)
    arguments.output.with_suffix(".md").write_text(table)
    print(table)


def measure(name: str, network: Callable[[], nn.Module], budget: str, steps: int) -> float:
    """Return the median, over a network's weights, of the compressed model's distance over the dense model's."""
    torch.manual_seed(0)
    compressed = shapeshift.compress(network(), budget, seed=0)
    names = [weight.name for weight in require_shared(compressed).plan.weights]
    dense = shapeshift.materialize(copy.deepcopy(compressed))
    moved, expected = (distances(name, model, names, steps) for model in (compressed, dense))
    return statistics.median(moved[weight] / expected[weight] for weight in names)


def distances(name: str, model: nn.Module, weights: Sequence[str], steps: int) -> dict[str, float]:
    """Return how far each weight lies from its start after some steps of an optimizer."""
    torch.manual_seed(1)
    before = {weight: _weight(model, weight) for weight in weights}
    optimizers = OPTIMIZERS[name](model)
    for _ in range(steps):
        x, labels = torch.randn(8, 3, SIDE, SIDE), torch.randint(10, (8,))
        for optimizer in optimizers:
            optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        if name in RULES:
            RULES[name](model)
        for optimizer in optimizers:
            optimizer.step()
    return {weight: (_weight(model, weight) - before[weight]).norm().item() for weight in weights}


def _weight(model: nn.Module, name: str) -> Tensor:
    path, _, parameter = name.rpartition(".")
    weight: Tensor = getattr(model.get_submodule(path), parameter)
    return weight.detach().clone()


def render(content: Mapping[str, Any]) -> str:
    """Make the table of a result."""
    columns = list(next(iter(content["results"].values())))
    rows = [[name, *(f"{found[column]:.2f}" for column in columns)] for name, found in content["results"].items()]
    return (
        f"{made_by('step_sizes', content['machine'])}, timm {content['machine']['versions']['timm']}: the distance by "
        f"which {content['steps']} steps move a weight of the compressed model, over that of the dense model; the "
        f"median over weights.\n\n{markdown_table(['optimizer', *columns], rows)}\n"
    )


if __name__ == "__main__":
    main()
