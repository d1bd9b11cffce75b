"""The callback beside Lightning's own hooks and callbacks: their order, freezing, layers that are built late."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    EMAWeightAveraging,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import shapeshift
from shapeshift.errors import CheckpointError, ConfigError
from shapeshift.integrations.lightning import ShapeshiftCallback, share_as_saved
from tests.tolerances import assert_close

# Lightning reminds those who load a checkpoint without the callback that wrote it.
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path., callbacks used:UserWarning")

BY_PART = shapeshift.Config(mapping={"backbone": "backbone", "*": "rest"}, seed=1)


class Net(nn.Module):
    """A backbone and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 24))
        self.head = nn.Sequential(nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 4))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.backbone(x))
        return out


class Classifier(LightningModule):
    """A network that is trained by SGD."""

    def __init__(self, hidden: int = 24) -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(0)
        self.network: Any = Net()

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def test_step(self, batch: list[Tensor], index: int) -> None:
        self.log("loss", nn.functional.cross_entropy(self.network(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([found for found in self.parameters() if found.requires_grad], lr=0.1)


class Sharing(Classifier):
    """The same, which can be loaded without the callback."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        share_as_saved(self, checkpoint)


class Late(Classifier):
    """The same, whose network is built in ``configure_model``."""

    def __init__(self, once: bool = True) -> None:
        super().__init__()
        self.network = None
        self.once = once

    def configure_model(self) -> None:
        if self.network is None or not self.once:
            torch.manual_seed(0)
            self.network = Net()


def loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(32, 16, generator=generator)
    return DataLoader(TensorDataset(images, torch.randint(4, (32,), generator=generator)), 16)


def make_trainer(*callbacks: Callback, epochs: int = 1, **options: Any) -> Trainer:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    defaults = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, **quiet}
    return Trainer(max_epochs=epochs, callbacks=list(callbacks), **(defaults | options))


def ours(**options: Any) -> ShapeshiftCallback:
    return ShapeshiftCallback("60%", **{"config": shapeshift.Config(seed=1), "module": "network", **options})


class Shadow(Callback):
    """An average of weights by hand, in a dict."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.average = copy.deepcopy(pl_module.state_dict())

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        for name, value in pl_module.state_dict().items():
            self.average[name].lerp_(value, 0.1)


class Teacher(Callback):
    """A copy of the network alone."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.teacher = copy.deepcopy(pl_module.network)


class Watch(Callback):
    """A callback with a module that is no copy, and one that belongs to the LightningModule."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.metric, self.watched = nn.Linear(16, 24), pl_module


@pytest.mark.parametrize(
    "other",
    [lambda: StochasticWeightAveraging(0.01, swa_epoch_start=1), EMAWeightAveraging, Shadow, Teacher],
    ids=["swa", "ema", "shadow", "teacher"],
)
def test_a_callback_with_a_copy_has_to_come_after(other: Any) -> None:
    model = Classifier()
    with pytest.raises(ConfigError, match=r"comes before ShapeshiftCallback in the Trainer's callbacks.*list Shapesh"):
        make_trainer(other(), ours(), epochs=2).fit(model, loader())
    assert not shapeshift.is_compressed(model)
    make_trainer(ours(), other(), epochs=2).fit(model, loader())
    assert shapeshift.is_compressed(model)
    shapeshift.materialize(model)


def test_a_callback_without_a_copy_comes_in_any_order() -> None:
    model = Classifier()
    make_trainer(Watch(), ours()).fit(model, loader())
    assert shapeshift.is_compressed(model)


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("module", ["", "network"])
def test_layers_that_configure_model_builds_are_compressed(module: str, once: bool) -> None:
    late, early = Late(once), Classifier()
    for model in (late, early):
        make_trainer(ours(module=module)).fit(model, loader())
    assert_close(late.state_dict(), early.state_dict(), "identical")
    assert shapeshift.is_compressed(late)
    make_trainer(ours(module=module)).fit(late, loader())
    assert shapeshift.is_compressed(late)
    assert not {"configure_model", "on_load_checkpoint"} & vars(late).keys()


def test_checkpoints_of_layers_that_configure_model_builds_are_loaded(tmp_path: Path) -> None:
    model = Late()
    saving = ModelCheckpoint(tmp_path, filename="last")
    make_trainer(ours(), saving, enable_checkpointing=True).fit(model, loader())
    fresh = Late()
    make_trainer(ours()).test(fresh, loader(), ckpt_path=tmp_path / "last.ckpt", verbose=False)
    assert_close(fresh.state_dict(), model.state_dict(), "identical")


@pytest.mark.parametrize("module", ["", "network", "network.backbone"])
def test_a_checkpoint_is_loaded_without_a_trainer_and_without_the_callback(tmp_path: Path, module: str) -> None:
    model, path = Sharing(), tmp_path / "last.ckpt"
    saving = ModelCheckpoint(tmp_path, filename="last")
    make_trainer(ours(module=module), saving, enable_checkpointing=True).fit(model, loader())
    loaded = Sharing.load_from_checkpoint(path)
    assert_close(loaded.state_dict(), model.state_dict(), "identical")
    x = loader().dataset[:4][0]
    assert_close(loaded.network(x), model.network(x), "identical")
    for callbacks in ([], [ours(module=module)]):
        tested = Sharing()
        make_trainer(*callbacks).test(tested, loader(), ckpt_path=path, verbose=False)
        assert_close(tested.state_dict(), model.state_dict(), "identical")
    # A model that is shared so already keeps its parameters.
    groups = [id(found) for found in loaded.parameters()]
    share_as_saved(loaded, torch.load(path))
    assert [id(found) for found in loaded.parameters()] == groups


def test_a_checkpoint_that_does_not_say_how_it_is_shared_is_refused(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, filename="last", save_weights_only=True)
    make_trainer(ours(), saving, enable_checkpointing=True).fit(Sharing(), loader())
    with pytest.raises(
        CheckpointError, match=r"network\.shapeshift\.all\.\w+.*does not say how.*save_weights_only=True"
    ):
        Sharing.load_from_checkpoint(tmp_path / "last.ckpt")


def test_a_checkpoint_of_a_plain_module_is_loaded(tmp_path: Path) -> None:
    model, saving = Sharing(), ModelCheckpoint(tmp_path, filename="last")
    make_trainer(saving, enable_checkpointing=True).fit(model, loader())
    loaded = Sharing.load_from_checkpoint(tmp_path / "last.ckpt")
    assert_close(loaded.state_dict(), model.state_dict(), "identical")


class Finetuning(BaseFinetuning):
    """Freezes the backbone for one epoch; with its group if the model has one."""

    def __init__(self, group: bool) -> None:
        super().__init__()
        self.group = group
        self.weights: list[Tensor] = []

    def parts(self, pl_module: Any) -> list[nn.Module]:
        network = pl_module.network
        return [network.backbone, network.shapeshift["backbone"]] if self.group else [network.backbone]

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        self.freeze(self.parts(pl_module))

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Any) -> None:
        self.weights.append(pl_module.network.backbone[0].weight.detach().clone())
        if epoch == 1:
            self.unfreeze_and_add_param_group(self.parts(pl_module), optimizer)


class WithBackbone(Classifier):
    """A backbone where ``BackboneFinetuning`` looks for it: a module with children, or a Sequential."""

    def __init__(self, sequential: bool) -> None:
        super().__init__()
        backbone = self.network.backbone if sequential else Net()
        self.backbone, self.head = backbone, nn.Linear(24 if sequential else 4, 4)
        self.network = None
        self.seen: list[Tensor] = []

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return nn.functional.cross_entropy(self.head(self.backbone(batch[0])), batch[1])

    def on_train_epoch_start(self) -> None:
        self.seen.append(self.backbone(loader().dataset[:4][0]).detach())


def test_a_part_with_a_group_of_its_own_is_frozen_and_unfrozen() -> None:
    model, tuning = Classifier(), Finetuning(group=True)
    head = model.network.head[0].weight.detach().clone()
    make_trainer(ours(config=BY_PART), tuning, epochs=3).fit(model, loader())
    first, second, third = tuning.weights
    assert torch.equal(first, second)
    assert not torch.equal(second, third)
    assert not torch.equal(model.network.head[0].weight, head)


def test_a_part_that_shares_with_the_rest_cannot_be_frozen_alone() -> None:
    for config in (BY_PART, shapeshift.Config()):
        with pytest.raises(ConfigError, match=r"none of the shared parameters of network.*pl_module\.network\.shapesh"):
            make_trainer(ours(config=config), Finetuning(group=False)).fit(Classifier(), loader())
    with pytest.raises(ConfigError, match="Finetuning comes before ShapeshiftCallback"):
        make_trainer(Finetuning(group=False), ours()).fit(Classifier(), loader())
    with pytest.raises(ConfigError, match="Finetuning freezes parameters, and a schedule replaces them"):
        make_trainer(ours(schedule={1: BY_PART}), Finetuning(group=True)).fit(Classifier(), loader())


def test_a_compressed_backbone_is_frozen_whole_or_refused() -> None:
    model = WithBackbone(sequential=False)
    tuning = BackboneFinetuning(unfreeze_backbone_at_epoch=1, verbose=False)
    make_trainer(ours(module="backbone"), tuning, epochs=3).fit(model, loader())
    first, second, third = model.seen
    assert torch.equal(first, second)
    assert not torch.equal(second, third)
    with pytest.raises(ConfigError, match="none of the shared parameters of backbone"):
        make_trainer(ours(module="backbone"), BackboneFinetuning(1)).fit(WithBackbone(sequential=True), loader())


def test_freezing_outside_of_the_compressed_module_is_left_alone() -> None:
    model, tuning = Classifier(), Finetuning(group=False)
    make_trainer(ours(module="network.head"), tuning).fit(model, loader())
    assert not model.network.backbone[0].weight.requires_grad
    assert shapeshift.is_compressed(model.network.head)


class TestPruning:
    def test_of_parameters_that_lightning_chooses_is_refused_before_the_module_is_compressed(self) -> None:
        model = Classifier()
        with pytest.raises(ConfigError, match=r"ModelPruning chooses parameters by itself.*parameters_to_prune="):
            make_trainer(ours(), ModelPruning("l1_unstructured", amount=0.5)).fit(model, loader())
        assert not shapeshift.is_compressed(model)

    @pytest.mark.parametrize("ours_first", [True, False])
    def test_of_a_generated_weight_is_refused(self, ours_first: bool) -> None:
        model = Classifier()
        pruning = ModelPruning("l1_unstructured", [(model.network.head[0], "weight")], amount=0.5)
        used = (ours(), pruning) if ours_first else (pruning, ours())
        with pytest.raises(shapeshift.GeneratedWeightError, match=r"head\.0\.weight .* before shapeshift\.compress"):
            make_trainer(*used).fit(model, loader())

    def test_of_other_parameters_works(self) -> None:
        model = Classifier()
        names = [(model.network.head[0], "bias"), (model.network.head[2], "bias")]
        make_trainer(ours(), ModelPruning("l1_unstructured", names, amount=0.5)).fit(model, loader())
        assert model.network.head[0].bias.eq(0).any()
