"""Damaged checkpoints: each has to give an error, and never a crash, much memory, or a model with other values.

    python -m benchmarks.damaged_checkpoints                  # 10,000 of them, a few minutes on one thread; writes JSON
    python -m benchmarks.damaged_checkpoints --count 500      # fewer

Small models are compressed in many ways and saved. Each time one file of a checkpoint is damaged and loaded into a
freshly built model. There are two kinds of damage. An accident changes, cuts off, removes or exchanges bytes of a file,
and the checksum is left as it was. A forgery changes a value of the plan, of the directory or of the tensors' header,
and seals the files again with the right checksum, so that all other checks are asked.

An accident has to be refused, unless the file says the same as before. A forgery may be a valid checkpoint of other
values, such as another budget, since nothing can tell who has sealed a file. Whatever is refused has to be refused by
an error of this library, in little memory and time, and has to leave the model as it was.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

import shapeshift
from benchmarks.machine import describe
from benchmarks.own_process import reset_peak, resident_bytes
from benchmarks.results import RESULTS, write_json
from shapeshift.checkpoint import files
from shapeshift.checkpoint.content import deflated, inflated
from shapeshift.errors import ShapeshiftError
from shapeshift.networks.wide_resnet import WideResNet

OUTCOMES = ("refused", "the same", "other values")
# What a load may take beyond the model: a damaged file must not be able to ask for memory.
MEMORY = 64 * 2**20
SECONDS = 10.0
_TEXTS = ("", "x", "../x", "\x00", "1e999", "packed_4", "float64", "wavg")
_NUMBERS = (-1, 0, 1, 2, 7, 2**31, 2**63, 10**18, -(2**63), 0.5, -1e308, float("inf"), float("nan"))
_OTHERS: tuple[Any, ...] = (None, True, [], {}, [[]], *_TEXTS, *_NUMBERS)


class DamageError(Exception):
    """A damaged checkpoint that was not handled as it has to be."""


def network() -> nn.Module:
    """Build the network that every checkpoint is of."""
    return WideResNet(10, 0.5)


def write_checkpoints(folder: Path) -> list[Path]:
    """Save the network compressed in many ways, and return the folders."""
    ways: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "wavg": ({}, {}),
        "fit": ({"init": "fit", "mapping": "shape"}, {}),
        "int8": ({"store": "int8", "rest": "bfloat16"}, {}),
        "int4, coded": ({"store": "int4"}, {"entropy_coding": True}),
        "ring": ({"combine": "ring"}, {}),
        "softmax": ({"combine": "softmax"}, {}),
        "hypernetwork": ({"combine": "hypernetwork"}, {}),
        "superweights": ({"combine": "superweights"}, {}),
    }
    for name, (options, how) in ways.items():
        torch.manual_seed(0)
        shapeshift.save(shapeshift.compress(network(), "60%", seed=0, **options), folder / name, **how)
    return [folder / name for name in ways]


# --- accidents: the checksum stays as it was


def _flip(content: bytearray, choose: random.Random) -> None:
    for _ in range(choose.choice((1, 1, 1, 4, 64))):
        content[choose.randrange(len(content))] ^= 1 << choose.randrange(8)


def _cut(content: bytearray, choose: random.Random) -> None:
    del content[choose.randrange(len(content)) :]


def _remove(content: bytearray, choose: random.Random) -> None:
    start = choose.randrange(len(content))
    del content[start : start + choose.choice((1, 8, 100))]


def _insert(content: bytearray, choose: random.Random) -> None:
    start = choose.randrange(len(content))
    content[start:start] = choose.randbytes(choose.choice((1, 8, 100)))


def _blank(content: bytearray, choose: random.Random) -> None:
    start = choose.randrange(len(content))
    end = min(start + choose.choice((8, 512, 4096)), len(content))
    content[start:end] = bytes(end - start)


def _repeat(content: bytearray, choose: random.Random) -> None:
    start = choose.randrange(len(content))
    content += content[start:]


ACCIDENTS: tuple[Callable[[bytearray, random.Random], None], ...] = (_flip, _cut, _remove, _insert, _blank, _repeat)


def accident(folder: Path, others: Sequence[Path], choose: random.Random) -> str:
    """Damage one file of a checkpoint as a disk or a copy does, and return what was done."""
    file = folder / choose.choice((files.PLAN_FILE, files.TENSORS_FILE))
    if choose.random() < 0.05:
        shutil.copy(choose.choice(others) / file.name, file)
        return "exchange"
    damage = choose.choice(ACCIDENTS)
    content = bytearray(file.read_bytes())
    damage(content, choose)
    file.write_bytes(content)
    return damage.__name__.strip("_")


# --- forgeries: the files are sealed again


def forgery(folder: Path, choose: random.Random) -> str:
    """Change one value of a checkpoint, seal it again, and return what was changed."""
    stamp = json.loads((folder / files.PLAN_FILE).read_text())
    del stamp["sha256"]
    if choose.random() < 0.7:
        description = inflated(stamp["content"])
        changed = _change(description, choose)
        stamp["content"] = deflated_as_it_is(description)
    else:
        changed = _change_header(folder / files.TENSORS_FILE, choose)
    stamp["sha256"] = files.seal(stamp, folder / files.TENSORS_FILE)
    (folder / files.PLAN_FILE).write_text(json.dumps(stamp))
    return changed


def deflated_as_it_is(description: Any) -> str:
    """Deflate a description in which nothing can be relied on."""
    try:
        return deflated(description)
    except (AttributeError, KeyError, TypeError, ValueError):
        return deflated({"plan": None, "damaged": str(description)})


def _change(description: Any, choose: random.Random) -> str:
    """Change, remove or repeat one value of nested dicts and lists, and return how."""
    places = list(_places(description))
    holder, key = choose.choice(places)
    kind = choose.choice(("value", "value", "value", "removal", "repetition"))
    if kind == "removal":
        del holder[key]
    elif kind == "repetition" and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    else:
        holder[key] = copy.deepcopy(choose.choice(_OTHERS))
    return f"plan: {kind}"


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, found in items:
        yield value, key
        yield from _places(found)


def _change_header(file: Path, choose: random.Random) -> str:
    """Change one value of a safetensors header, or its length."""
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, entries = json.loads(content[8 : 8 + size]), content[8 + size :]
    _change(header, choose)
    text = json.dumps(header).encode()
    length = choose.choice((0, 2**40, 2**63)) if choose.random() < 0.1 else len(text)
    file.write_bytes(length.to_bytes(8, "little") + text + entries)
    return "header"


# --- what has to hold


def try_one(folder: Path, others: Sequence[Path], choose: random.Random, state: dict[str, Tensor]) -> tuple[str, str]:
    """Damage a checkpoint, load it, and return the kind of the damage and the outcome.

    Args:
        folder: The checkpoint. It is damaged in place.
        others: Other checkpoints of the same network.
        choose: Where the damage comes from.
        state: The state of the model that the checkpoint was saved of.

    Raises:
        DamageError: If the load does something else than it has to.
    """
    sealed = choose.random() < 0.5
    kind = forgery(folder, choose) if sealed else accident(folder, others, choose)
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    reset_peak()
    memory, start = resident_bytes(), time.perf_counter()
    outcome = "refused"
    try:
        shapeshift.load(folder, model)
    except ShapeshiftError:
        if not _same(before, model.state_dict()):
            raise DamageError(f"{kind}: the model was changed") from None
    except Exception as error:
        raise DamageError(f"{kind}: {type(error).__name__}: {error}") from error
    else:
        outcome = "the same" if _same(state, model.state_dict()) else "other values"
    taken, seconds = resident_bytes("VmHWM") - memory, time.perf_counter() - start
    if taken > MEMORY or seconds > SECONDS:
        raise DamageError(f"{kind}: {outcome} after {seconds:.1f} s and {taken / 2**20:.0f} MiB")
    if outcome == "other values" and not sealed:
        raise DamageError(f"{kind}: loaded with other values")
    return kind, outcome


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def run(count: int, seed: int = 0) -> dict[str, dict[str, int]]:
    """Try damaged checkpoints.

    Args:
        count: How many.
        seed: The seed of all that is chosen.

    Returns:
        How often each kind of damage had each outcome.

    Raises:
        DamageError: If a damaged checkpoint was not handled as it has to be. The message has the number of the try.
    """
    found: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as root:
        intact = write_checkpoints(Path(root) / "intact")
        states = {folder: shapeshift.load(folder, network()).state_dict() for folder in intact}
        for number in tqdm(range(count), desc="damaged checkpoints"):
            choose = random.Random(f"{seed} {number}")
            original = choose.choice(intact)
            damaged = Path(root) / "damaged"
            shutil.rmtree(damaged, ignore_errors=True)
            shutil.copytree(original, damaged)
            try:
                kind, outcome = try_one(damaged, intact, choose, states[original])
            except DamageError as error:
                raise DamageError(f"try {number} on {original.name!r}: {error}") from error
            found.setdefault(kind, Counter())[outcome] += 1
    return {kind: {outcome: found[kind][outcome] for outcome in OUTCOMES} for kind in sorted(found)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.damaged_checkpoints", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--count", type=int, default=10_000, help="how many checkpoints are damaged (default: 10,000)")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the damages (default: 0)")
    parser.add_argument("--output", type=Path, default=RESULTS / "damaged_checkpoints.json", help="the JSON file")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    results = run(arguments.count, arguments.seed)
    content = {"machine": describe("cpu"), "count": arguments.count, "seed": arguments.seed, "results": results}
    write_json(arguments.output, content)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
