"""All measurements of a GPU, in about ten minutes: times of steps and peaks of memory.

    python -m benchmarks.gpu

It writes ``results/step_time_cuda.json`` and ``results/memory_cuda.json`` with their tables. What is in these files
already is not measured again, so a run that was cut off goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys

import torch

from benchmarks import memory, step_time


def main() -> None:
    argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split("\n")[0]).parse_args()
    if not torch.cuda.is_available():
        sys.exit("torch finds no GPU on this machine: run this where torch.cuda.is_available()")
    memory.main(["--device", "cuda", "--rows", "bert", "resnet", "vit", "wrn"])
    step_time.main(["--device", "cuda", "--runs", "1", "--steps", "10"])


if __name__ == "__main__":
    main()
