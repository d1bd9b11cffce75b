"""Federated learning with Flower: clients train a classifier on images of their own, and send the state of the model.

The state dict of a compressed model holds the shared parameters, and what is not generated, such as biases and norms.
So clients and server are those of a dense model; only the function that builds the model calls ``compress``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import nn

from shapeshift.experiments.data import Images
from shapeshift.experiments.training import error


@dataclass(frozen=True)
class LocalTraining:
    """The training of a client between two messages, by Adam.

    Attributes:
        learning_rate: The learning rate.
        batch_size: The number of images of a step.
        epochs: The number of passes over the client's images.
        seed: The seed of the order of the images, together with the round and the client.
    """

    learning_rate: float = 1e-3
    batch_size: int = 32
    epochs: int = 1
    seed: int = 0


def train_locally(model: nn.Module, data: Images, local: LocalTraining, seed: int) -> None:
    """Train a client's model in place.

    Args:
        model: The model, in the state that the server has sent.
        data: The client's images.
        local: The settings.
        seed: The seed of the order of the images.
    """
    optimizer = torch.optim.Adam(model.parameters(), local.learning_rate)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(local.epochs):
        for batch in torch.randperm(len(data.labels), generator=generator).split(local.batch_size):
            optimizer.zero_grad()
            F.cross_entropy(model(data.images[batch]), data.labels[batch]).backward()
            optimizer.step()


def client_app(build: Callable[[], nn.Module], load: Callable[[int, int], Images], local: LocalTraining) -> ClientApp:
    """Make the app of the clients.

    Args:
        build: A function that builds the model, compressed or not. All clients build the same one: the names and
            shapes of its state do not depend on chance.
        load: A function from a client's index and the number of clients to the client's images.
        local: The training of a client.

    Returns:
        The app, for Flower to run.
    """
    app = ClientApp()

    @app.train()  # type: ignore[untyped-decorator]
    def train(message: Message, context: Context) -> Message:
        client, clients = (int(context.node_config[key]) for key in ("partition-id", "num-partitions"))
        turn = cast(int, message.content["config"]["server-round"])
        data, model = load(client, clients), build()
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        train_locally(model, data, local, hash((local.seed, turn, client)))
        state = ArrayRecord(model.state_dict())
        metrics = MetricRecord({"num-examples": len(data.labels), "bytes": state.count_bytes()})
        return Message(RecordDict({"arrays": state, "metrics": metrics}), reply_to=message)

    return app


@dataclass(frozen=True)
class Round:
    """The state of a federation after a round.

    Attributes:
        sent: The bytes that each client has sent so far, as Flower packs the state.
        accuracy: The share of test images that the server's model gets right, in percent.
    """

    sent: float
    accuracy: float


def server_app(
    build: Callable[[], nn.Module], test: Images, clients: int, rounds: int, found: list[Round]
) -> ServerApp:
    """Make the app of the server, which averages the clients' states (McMahan et al. 2017, "FedAvg").

    Args:
        build: The function that builds the clients' model.
        test: The images that the average of the clients' models is tested on.
        clients: The number of clients that take part in each round.
        rounds: The number of rounds.
        found: A list that the state after each round is appended to.

    Returns:
        The app, for Flower to run.
    """
    app = ServerApp()

    @app.main()  # type: ignore[untyped-decorator]
    def main(grid: Grid, context: Context) -> None:
        model = build()

        def evaluate(turn: int, arrays: ArrayRecord) -> MetricRecord:
            model.load_state_dict(arrays.to_torch_state_dict())
            return MetricRecord({"accuracy": 100 - error(model, test)})

        average = FedAvg(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)
        result = average.start(grid, ArrayRecord(model.state_dict()), rounds, evaluate_fn=evaluate)
        sent = 0.0
        for turn in range(1, rounds + 1):
            sent += cast(float, result.train_metrics_clientapp[turn]["bytes"])
            found.append(Round(sent, cast(float, result.evaluate_metrics_serverapp[turn]["accuracy"])))

    return app
