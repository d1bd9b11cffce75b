"""The price of HRank's measure: ranks of all feature maps at once, against a loop over maps.

    python -m benchmarks.feature_ranks    # less than a minute; writes JSON and a table

Both take the maps of one batch at every place where the ranks are measured, of networks on images of 32 pixels. They
take turns within one process, and have to find the same ranks.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.machine import describe, made_by
from benchmarks.markdown import markdown_table
from benchmarks.results import RESULTS, write_json
from benchmarks.timing import alternate
from shapeshift.networks.densenet import DenseNet
from shapeshift.networks.googlenet import GoogLeNet
from shapeshift.networks.resnet import ResNet
from shapeshift.networks.vgg import VGG
from shapeshift.prune.maps import FILTERED, MapTracer
from shapeshift.prune.ranks import matrix_ranks
from shapeshift.running.batches import Inputs

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "VGG-16": lambda: VGG(16),
    "ResNet-56": lambda: ResNet(56, projection=True),
    "DenseNet-40": lambda: DenseNet(40, 12),
    "GoogLeNet": lambda: GoogLeNet(),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.feature_ranks", description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=2, help="images in the batch (default: 2)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each; the median is reported (default: 3)")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--output", type=Path, help="the JSON file; the table is written beside it")
    arguments = parser.parse_args(argv)

    path = arguments.output or RESULTS / f"feature_ranks_{arguments.device}.json"
    torch.set_num_threads(1)
    rows = [measure(name, arguments) for name in arguments.networks]
    content = {"machine": describe(arguments.device), "images": arguments.images, "rounds": arguments.rounds}
    content["rows"] = rows
    write_json(path, content)
    table = render(content)
    path.with_suffix(".md").write_text(table)
    print(table)


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time both on the maps of a network, in seconds."""
    torch.manual_seed(0)
    # Smooth, as photographs are: noise has maps of full rank everywhere.
    images = F.interpolate(torch.randn(arguments.images, 3, 8, 8), size=(32, 32), mode="bicubic")
    batches = collect(NETWORKS[name]().eval().to(arguments.device), images.to(arguments.device))
    found: dict[str, list[Tensor]] = {}

    def contender(rank: Callable[[Tensor], Tensor], key: str) -> Callable[[], None]:
        def run() -> None:
            found[key] = [rank(maps).cpu() for maps in batches]

        return run

    contenders = {"loop": contender(in_a_loop, "loop"), "batched": contender(matrix_ranks, "batched")}
    seconds = alternate(contenders, arguments.rounds, arguments.device)
    different = sum(int((a != b).sum()) for a, b in zip(found["loop"], found["batched"], strict=True))
    total = sum(ranks.numel() for ranks in found["batched"])
    return {"network": name, "maps": total, "different": different, **seconds}


def collect(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the maps of every place where ranks are measured, each of shape (N, C, H, W)."""
    batches: list[Tensor] = []
    layers: dict[str, nn.Module] = {
        path: module for path, module in model.named_modules() if isinstance(module, FILTERED)
    }
    tracer = MapTracer(layers, lambda paths, maps: batches.append(maps.clone()))
    tracer.run(model, Inputs((images,), {}))
    return [maps for maps in batches if maps.shape[-1] > 1]


def in_a_loop(maps: Tensor) -> Tensor:
    """Take the rank of one map after the other."""
    ranks = [[torch.linalg.matrix_rank(single).item() for single in image] for image in maps]
    return torch.tensor(ranks, dtype=torch.int64)


def render(content: dict[str, Any]) -> str:
    """Make the table of a result."""
    rows = [
        [
            row["network"],
            f"{row['maps']:,}",
            f"{row['loop'] / row['maps'] * 1e6:.1f}",
            f"{row['batched'] / row['maps'] * 1e6:.1f}",
            f"{row['loop'] / row['batched']:.1f}",
            str(row["different"]),
        ]
        for row in content["rows"]
    ]
    header = ["network", "maps", "loop, µs per map", "at once, µs per map", "times faster", "different ranks"]
    return (
        f"{made_by('feature_ranks', content['machine'])}: the ranks of all feature maps of "
        f"{content['images']} images, median of {content['rounds']} turns.\n\n{markdown_table(header, rows)}\n"
    )


if __name__ == "__main__":
    main()
