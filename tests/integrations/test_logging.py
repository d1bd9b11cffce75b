"""Trainers of other libraries log how shared parameters train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

import shapeshift
from shapeshift.errors import ModelError
from shapeshift.integrations.lightning import LogSharing, ShapeshiftCallback
from shapeshift.integrations.transformers import log_sharing
from shapeshift.networks.wide_resnet import WideResNet
from tests.methods import compressed, every_method
from tests.models import MODELS, Residual, mlp


@every_method
def test_metrics_are_those_of_the_parameters(options: dict[str, str]) -> None:
    model = compressed(Residual(), 0.7, **options)
    before = shapeshift.metrics(model)
    assert not any("gradient" in name for name in before)
    model(*MODELS["residual"].inputs()).square().sum().backward()
    found = shapeshift.metrics(model)
    for name, group in model.shapeshift.items():
        norm = torch.cat([parameter.flatten() for parameter in group.parameters()]).norm().item()
        gradient = torch.cat(
            [parameter.grad.flatten() for parameter in group.parameters() if parameter.grad is not None]
        )
        assert found[f"shapeshift/store_norm/{name}"] == pytest.approx(norm, rel=1e-5)
        assert found[f"shapeshift/gradient_norm/{name}"] == pytest.approx(gradient.norm().item(), rel=1e-5)
    assert found["shapeshift/budget_used"] == pytest.approx(shapeshift.report(model).budget_used)


def test_similarity_and_the_errors_of_a_fit_are_metrics() -> None:
    shared = shapeshift.recurrence.soft_share(WideResNet(16, 0.5), templates=2)
    matrices = shapeshift.recurrence.similarity(shared)
    assert matrices
    found = shapeshift.metrics(shared)
    for name, matrix in matrices.items():
        pairs = [matrix[i, j].item() for i in range(len(matrix)) for j in range(i)]
        assert found[f"shapeshift/similarity/{name}"] == pytest.approx(sum(pairs) / len(pairs), rel=1e-5)
    fitted = shapeshift.compress(mlp(), 0.6, init="fit")
    errors = [weight.error for group in shapeshift.report(fitted).groups for weight in group.weights]
    assert shapeshift.metrics(fitted)["shapeshift/fit_error/max"] == max(error for error in errors if error is not None)
    in_bytes = shapeshift.compress(mlp(width=128), "40kB")
    assert shapeshift.metrics(in_bytes)["shapeshift/budget_used"] == shapeshift.report(in_bytes).budget_used
    with pytest.raises(ModelError, match="not compressed"):
        shapeshift.metrics(mlp())


class Reported(TrainerCallback):
    """Stands for the callbacks of TensorBoard, W&B and trackio, which report what ``on_log`` is given."""

    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, *, logs: dict[str, float], **kwargs: Any) -> None:
        self.logs.append(dict(logs))


def test_the_trainer_of_transformers_reports_them(tmp_path: Path) -> None:
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=32, n_positions=8)
    model = shapeshift.compress(GPT2LMHeadModel(config), "50%")
    data = [{"input_ids": row, "labels": row} for row in torch.randint(32, (8, 6))]
    arguments = TrainingArguments(str(tmp_path), max_steps=5, logging_steps=2, report_to="tensorboard", use_cpu=True)
    reported = Reported()
    trainer = Trainer(model, arguments, train_dataset=data, callbacks=[reported])
    log_sharing(trainer)
    trainer.train()
    losses = [logs for logs in reported.logs if "loss" in logs]
    assert len(losses) == 2
    for logs in losses:
        assert logs["shapeshift/gradient_norm/all"] > 0
        json.dumps(logs)
    norms = [logs["shapeshift/store_norm/all"] for logs in losses]
    assert norms[0] != norms[1]
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    assert b"shapeshift/gradient_norm/all" in events.read_bytes()


def test_only_a_compressed_model_can_be_logged(tmp_path: Path) -> None:
    trainer = Trainer(mlp(), TrainingArguments(str(tmp_path), report_to=[], use_cpu=True))
    before = list(trainer.callback_handler.callbacks)
    with pytest.raises(ModelError, match="not compressed"):
        log_sharing(trainer)
    assert trainer.callback_handler.callbacks == before


class Regression(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = mlp()

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return mse_loss(self.network(batch[0]), torch.zeros(len(batch[0]), 4))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_logs_them_with_its_own_interval(tmp_path: Path) -> None:
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(12, 16)), batch_size=2)
    logger = pl.loggers.CSVLogger(tmp_path)
    trainer = pl.Trainer(
        max_epochs=1,
        logger=logger,
        log_every_n_steps=3,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        callbacks=[ShapeshiftCallback("50%", module="network"), LogSharing("network")],
    )
    trainer.fit(Regression(), loader)
    lines = [line.split(",") for line in (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()]
    place = lines[0].index("shapeshift/gradient_norm/all")
    assert [float(line[place]) > 0 for line in lines[1:] if line[place]] == [True, True]
    assert isinstance(trainer.lightning_module.network, nn.Sequential)
