"""Callbacks of Lightning, and its Trainer's options, on compressed modules."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
import torch.nn.functional as F
from lightning.pytorch import callbacks
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import shapeshift
from benchmarks.compatibility.check import Network, check, equal, images
from shapeshift.integrations.lightning import ShapeshiftCallback, share_as_saved

GROUP = "Lightning's callbacks"
BY_PART = shapeshift.Config(mapping={"body": "body", "*": "rest"}, seed=0)


class _Classifier(lightning.LightningModule):
    """A network, and its training by gradient descent."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = Network(), torch.nn.Linear(10, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(x))
        return logits

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([found for found in self.parameters() if found.requires_grad], 0.05)


class _Sharing(_Classifier):
    """The same, loaded as its checkpoint is shared."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        share_as_saved(self, checkpoint)


class _FreezesBody(callbacks.BaseFinetuning):
    """Freezes a part and the shared parameters that serve it, and trains them again from the second epoch on."""

    def _parts(self, module: Any) -> list[Any]:
        return [module.backbone.body, module.backbone.shapeshift["body"]]

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(self._parts(pl_module))

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: torch.optim.Optimizer) -> None:
        if epoch == 1:
            self.before = [found.detach().clone() for found in pl_module.backbone.shapeshift["body"].parameters()]
            self.unfreeze_and_add_param_group(self._parts(pl_module), optimizer)


def _ours(config: shapeshift.Config | None = None) -> ShapeshiftCallback:
    return ShapeshiftCallback("40%", config or shapeshift.Config(seed=0), module="backbone")


def _fit(
    module: _Classifier, *used: lightning.Callback, epochs: int = 2, resume: str | None = None, **options: Any
) -> lightning.Trainer:
    """Train on the same two batches in each epoch."""
    torch.manual_seed(1)
    data = TensorDataset(torch.cat([images(), images()]), torch.arange(8))
    quiet: dict[str, Any] = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "enable_checkpointing": any(isinstance(callback, callbacks.ModelCheckpoint) for callback in used),
    }
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=epochs, callbacks=list(used), **{**quiet, **options}
    )
    trainer.fit(module, DataLoader(data, 4), ckpt_path=resume)
    return trainer


def _state(module: _Classifier) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


@check(GROUP, "none, on a module that was compressed in __init__")
def _by_hand() -> None:
    module = _Classifier()
    shapeshift.compress(module.backbone, "40%", seed=0)
    other = copy.deepcopy(module)
    _fit(module)
    torch.manual_seed(1)
    x, y = torch.cat([images(), images()]), torch.arange(8)
    optimizer = other.configure_optimizers()
    for start in (0, 4, 0, 4):
        optimizer.zero_grad()
        F.cross_entropy(other(x[start : start + 4]), y[start : start + 4]).backward()
        optimizer.step()
    equal(_state(module), _state(other))


class _Record(lightning.Callback):
    """Keeps the parameters from before each epoch, and from after the last."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.states.append(_state(pl_module))

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            self.states.append(_state(pl_module))


def _check_averaged(module: _Classifier, record: _Record) -> None:
    """Assert that a run ends with shared parameters that are between those of its epochs."""
    for name in (name for name in record.states[0] if ".store." in name):
        first, last = record.states[0][name], _state(module)[name]
        furthest = torch.stack([state[name] - first for state in record.states]).abs().max()
        assert 0 < (last - first).abs().max() <= furthest


@check(GROUP, "StochasticWeightAveraging")
def _swa() -> None:
    module, record = _Classifier(), _Record()
    averaging = callbacks.StochasticWeightAveraging(0.05, swa_epoch_start=1, annealing_epochs=1)
    _fit(module, _ours(), record, averaging, epochs=3)
    _check_averaged(module, record)


@check(GROUP, "EMAWeightAveraging")
def _ema() -> None:
    module, record = _Classifier(), _Record()
    _fit(module, _ours(), callbacks.EMAWeightAveraging(decay=0.5), record)
    _check_averaged(module, record)


@check(GROUP, "EMAWeightAveraging, listed before ShapeshiftCallback")
def _ema_first() -> None:
    _fit(_Classifier(), callbacks.EMAWeightAveraging(), _ours())


def _check_frozen_at_first(*used: lightning.Callback) -> None:
    module, record = _Classifier(), _Record()
    _fit(module, *used, callbacks.BackboneFinetuning(unfreeze_backbone_at_epoch=1), record, epochs=2)
    stores = [name for name in record.states[0] if ".store." in name]
    assert all(record.states[1][name].equal(record.states[0][name]) for name in stores)
    assert not any(_state(module)[name].equal(record.states[1][name]) for name in stores)


@check(GROUP, "BackboneFinetuning of a whole compressed backbone")
def _backbone() -> None:
    _check_frozen_at_first(_ours())


@check(GROUP, "BackboneFinetuning of a part of the compressed module")
def _backbone_of_the_whole() -> None:
    _check_frozen_at_first(ShapeshiftCallback("60%", shapeshift.Config(seed=0)))


@check(GROUP, "the same, on a module that was compressed in __init__")
def _backbone_by_hand() -> None:
    module = _Classifier()
    shapeshift.compress(module, "60%", seed=0)
    _fit(module, callbacks.BackboneFinetuning(unfreeze_backbone_at_epoch=1))


@check(GROUP, "BaseFinetuning of a part and of the group that serves it")
def _finetuning() -> None:
    module, freezing = _Classifier(), _FreezesBody()
    start: list[dict[str, Tensor]] = []

    class Start(lightning.Callback):
        def on_fit_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
            start.append(_state(pl_module))

    _fit(module, _ours(BY_PART), freezing, Start())
    equal([found for name, found in start[0].items() if "shapeshift.body." in name], freezing.before)
    assert not any(found.equal(start[0][name]) for name, found in _state(module).items() if "shapeshift.body." in name)


@check(GROUP, "GradientAccumulationScheduler")
def _accumulation() -> None:
    module = _Classifier()
    shapeshift.compress(module.backbone, "40%", seed=0)
    other = copy.deepcopy(module)
    _fit(module, callbacks.GradientAccumulationScheduler({0: 2}))
    _fit(other, accumulate_grad_batches=2)
    equal(_state(module), _state(other))


@check(GROUP, "ModelCheckpoint, and a run that is resumed")
def _resume() -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole, resumed = _Classifier(), _Classifier()
        saving = callbacks.ModelCheckpoint(folder, "{epoch}", save_top_k=-1, every_n_epochs=1)
        _fit(whole, _ours(), saving)
        _fit(resumed, _ours(), resume=str(Path(folder, "epoch=0.ckpt")))
    equal(_state(resumed), _state(whole))


@check(GROUP, "load_from_checkpoint with share_as_saved")
def _load() -> None:
    with tempfile.TemporaryDirectory() as folder:
        module = _Sharing()
        trainer = _fit(module, _ours())
        trainer.save_checkpoint(Path(folder, "last.ckpt"))
        loaded = _Sharing.load_from_checkpoint(Path(folder, "last.ckpt"))
    equal(_state(loaded), _state(module))


@check(GROUP, "ModelPruning")
def _pruning() -> None:
    _fit(_Classifier(), _ours(), callbacks.ModelPruning("l1_unstructured", amount=0.5))


@check(GROUP, 'Trainer(precision="bf16-mixed", gradient_clip_val=1.0)')
def _precision() -> None:
    module = _Classifier()
    _fit(module, _ours(), precision="bf16-mixed", gradient_clip_val=1.0)
    assert all(found.isfinite().all() for found in _state(module).values())
