"""The page on the papers' own recipes: commands, estimated GPU hours, and the published figures."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.estimates import SIZES, TERAFLOPS, estimate
from benchmarks.markdown import markdown_table
from benchmarks.recipes import PAPER_TABLES, RECIPES
from benchmarks.results import RESULTS, write_json

PATH = RESULTS / "estimates.json"
SEEDS = 3

# Test errors in %, from the papers and from the READMEs of their authors' code.
PUBLISHED = {
    "error_against_parameters_paper": "dense WRN-28-10: 19.25 (Savarese and Maire 2019)",
    "templates_paper": "WRN-28-10 at K = 2, 4, 6, 8, 10: 19.66, 19.59, 19.48, 19.24, 19.32 (Plummer et al. 2022)",
    "distillation_paper": (
        "alone and with OFD: WRN-16-4 22.72, 20.89; WRN-28-2 24.88, 21.98; WRN-16-2 27.32, 24.08; ResNet-56 27.68, "
        "24.44 (README of OFD)"
    ),
    "pruning_paper": (
        "after HRank: VGG-16 7.66, ResNet-56 6.83, ResNet-110 5.77, DenseNet-40 5.76, GoogLeNet 5.93 (README of HRank)"
    ),
    "families_paper": "ahead of separate networks with 17% fewer parameters (Teterwak et al. 2024)",
    "soft_sharing_paper": (
        "WRN-28-10 19.25, with dropout 18.85; SWRN-28-10 with dropout 18.43; with dropout and k = 2: SWRN-28-10 18.66, "
        "SWRN-28-14 18.37 (Savarese and Maire 2019)"
    ),
}

INTRODUCTION = """\
# The papers' recipes

`--recipe paper` trains the papers' networks as their scripts do: SGD at 0.1 with Nesterov momentum, 200 epochs in
batches of 128, the rate times 0.2 after 60, 120 and 160; a weight decay of 5e-4, none on coefficients; images moved by
up to 4 pixels, mirrored and, in the tables of Shapeshifter Networks, partly hidden by cutout; up to 8 templates,
coefficients from embeddings, upsampling by `inter`; and autocast in bfloat16. Budgets are the shares that our smaller
networks have. `benchmarks/recipes.py` has all of it. `--recipe imagenet` trains WRN-50-2 on a folder of images, for 90
epochs, since the papers' scripts have no schedule for it.

```console
$ python -m benchmarks run templates --recipe paper --data cifar100 --data-dir FOLDER --device cuda --dry-run
$ python -m benchmarks run templates --recipe paper --data cifar100 --data-dir FOLDER --device cuda --processes 8
$ torchrun --nproc-per-node 8 -m benchmarks run templates --recipe paper --data-dir FOLDER --device cuda
$ python -m benchmarks run templates --recipe paper --rehearse
```

The first command prints the memory and the hours of each row and stops. The second one trains eight runs at once, on
the GPUs in turn. The third one spreads each batch over eight GPUs by DDP, for a run that has to end sooner. The last
one takes two steps of each row at full size on made-up images, which a CPU can do. A run keeps its state after each
epoch in `benchmarks/results/unfinished`. If a run was killed, repeat the command and it goes on. Where one machine is
not enough, start the second command on each of several with one shared folder as `--output`: a worker passes over the
runs that another one is at, and takes over those of a killed one. FOLDER holds `cifar-100-python` or
`cifar-10-batches-py`, as unpacked.
"""


def write() -> None:
    """Estimate the hours and the memory of every table, and write them as JSON."""
    tables = {}
    for name, table in PAPER_TABLES.items():
        data = _data(name)
        task = table.task(data, "cuda")
        found = [estimate(row, task, SIZES[data]) for row in table.rows]
        sums = {"hours": sum(each.hours for each in found), "gigabytes": max(each.gigabytes for each in found)}
        tables[name] = {"rows": len(found), **sums}
    write_json(PATH, {"teraflops": TERAFLOPS, "tables": tables})


def page() -> str:
    """Return the page, with the estimates that were written."""
    content: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    lines = []
    for name, table in PAPER_TABLES.items():
        found = content["tables"][name]
        sizes = [str(found["rows"]), f"{SEEDS * found['hours']:,.0f}", f"{found['gigabytes']:,.0f}"]
        lines.append([f"`{table.command} --data {_data(name)}`", *sizes, PUBLISHED.get(name, "")])
    header = ["command", "rows", f"GPU hours, {SEEDS} seeds", "GB", "published test error, %"]
    return f"""\
{INTRODUCTION}
{markdown_table(header, lines)}

Hours and memory are estimates: nobody has run these commands to the end yet, nor on a GPU. Hours are 3 x operations of
a forward pass x images x epochs / {content["teraflops"]:g} TFLOP/s, the operations as torch counts them. That rate is
an assumption; `--tflops` takes what your GPU sustains. The memory is that of the largest row: 12 bytes for each trained
parameter (entry, gradient, momentum), 4 for each entry of the weights, what a batch's forward pass keeps, and the
training images, which are on the GPU. For all of ImageNet no GPU has room for these, so take a part of its classes.
A published figure is on the data set of the command. Where none stands, the paper shows a picture, or we could read its
claim only: [](results/claims.md) has the claims.
"""


def _data(name: str) -> str:
    """Return the data set of the published figures."""
    recipe = RECIPES[PAPER_TABLES[name].recipe]
    return "cifar10" if name == "pruning_paper" else recipe.datasets[0]
