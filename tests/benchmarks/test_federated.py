"""Federated learning: the state that clients send, its average, and the accuracy per megabyte."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import federated
from benchmarks.results import RESULTS
from benchmarks.task import Task
from shapeshift.experiments.training import error
from tests.data_files import write_fashion_mnist
from tests.processes import run_python
from tests.tolerances import assert_close

SIZES = {"train": 48, "test": 200}
PROGRAM = """
import json, sys
from pathlib import Path
from benchmarks import federated
folder = Path(sys.argv[1])
found = federated.measure("5%", 0.01, 0, {sizes}, 2, folder)
(folder / "found.json").write_text(json.dumps(found))
"""


def average(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}


def test_the_average_of_states_generates_the_average_of_weights() -> None:
    first, second = (federated.network("25%", seed=0) for _ in range(2))
    for seed, model in enumerate((first, second)):
        torch.manual_seed(seed)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
    mean = federated.network("25%", seed=0)
    mean.load_state_dict(average([first.state_dict(), second.state_dict()]))
    for layer in (0, 2, 5, 7):
        assert_close(mean[layer].weight, (first[layer].weight + second[layer].weight) / 2, "reordered")


def test_a_round_of_flower_is_the_average_of_what_clients_train_by_themselves(tmp_path: Path) -> None:
    pytest.importorskip("flwr", reason="flwr is not installed")
    from shapeshift.experiments.federated import LocalTraining, train_locally

    write_fashion_mnist(tmp_path, **SIZES)
    paths = os.pathsep.join([str(RESULTS.parent.parent), os.environ.get("PYTHONPATH", "")])
    run_python(["-c", PROGRAM.format(sizes=SIZES), str(tmp_path)], PYTHONPATH=paths)
    found = json.loads((tmp_path / "found.json").read_text())

    task, local = Task("fashion_mnist", None, {**SIZES, "seed": 0}, data_dir=tmp_path), LocalTraining(0.01)
    model = federated.network("5%", seed=0)
    state = {name: entry.clone() for name, entry in model.state_dict().items()}
    test = federated.CLASSIFICATION.load(task)[1]
    for turn in (1, 2):
        states = []
        for client in range(federated.CLIENTS):
            model.load_state_dict(state)
            data = federated.load(task, client, federated.CLIENTS)
            train_locally(model, data, local, hash((0, turn, client)))
            states.append({name: entry.clone() for name, entry in model.state_dict().items()})
        state = average(states)
        model.load_state_dict(state)
        # Of 200 test images, one at most lies so near to a border that the order of a sum decides.
        assert found["rounds"][turn - 1]["accuracy"] == pytest.approx(100 - error(model, test), abs=0.51)
    one_round = sum(entry.nbytes for entry in state.values())
    header = 200  # bytes, of each packed array
    sent = [each["sent"] for each in found["rounds"]]
    assert one_round < sent[0] < one_round + header * len(state)
    assert sent[1] == 2 * sent[0]


def test_the_committed_federations_come_from_the_committed_numbers(tmp_path: Path) -> None:
    content = json.loads((RESULTS / "federated.json").read_text())
    assert (RESULTS / "federated.md").read_text() == federated.render(content)
    federated.plot(content, tmp_path / "federated.png")
    assert (tmp_path / "federated.png").stat().st_size > 1000
    assert (RESULTS / "federated.png").exists()
    for key, found in content["results"].items():
        assert len(found["rounds"]) == content["rounds"], key
        # Four bytes for each parameter, the constants and the headers of the arrays.
        assert 0 < found["rounds"][0]["sent"] - 4 * found["parameters"] < 4000, key
