"""The callback for Lightning, in the real Trainer."""

from __future__ import annotations

import copy
import itertools
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import shapeshift
from shapeshift.errors import CheckpointError, ConfigError, ModelError
from shapeshift.integrations.lightning import ShapeshiftCallback
from tests.processes import WORLD, free_port, needs_gloo
from tests.tolerances import assert_close

# Lightning reminds those who load a checkpoint without the callback that wrote it.
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path., callbacks used:UserWarning")

SIZES = (16, 24, 24, 24, 24, 4)
ONE = shapeshift.Config(seed=4)
SHAPES = shapeshift.Config(mapping="shape", seed=1)
PAIRS = shapeshift.Config(mapping=["a", "b", "a", "b", "a"], seed=2)


def network() -> nn.Sequential:
    layers = [part for ends in itertools.pairwise(SIZES) for part in (nn.Linear(*ends), nn.Tanh())]
    return nn.Sequential(*layers[:-1])


class Classifier(LightningModule):
    """A network that is trained by SGD with momentum and a cosine schedule."""

    def __init__(self, seed: int = 0, groups: Callable[[nn.Module], Any] | None = None) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.model = network()
        self.groups = groups or (lambda model: shapeshift.parameter_groups(model, 1e-3))
        self.rates: list[float] = []
        self.loaded: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def test_step(self, batch: list[Tensor], index: int) -> None:
        self.log("loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.loaded.append(checkpoint["epoch"])

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.SGD(self.groups(self), lr=0.1, momentum=0.9)
        return {"optimizer": optimizer, "lr_scheduler": CosineAnnealingLR(optimizer, 6)}


class Watch(Callback):
    """Writes down what each epoch begins with; put behind the callback that it watches."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.outputs: list[list[Tensor]] = []
        self.groups: list[list[str]] = []

    @torch.no_grad()
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.outputs.append([pl_module(self.x)])
        self.groups.append(list(pl_module.model.shapeshift))
        held = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
        assert held == {id(p) for p in pl_module.parameters()}

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.outputs[-1].append(pl_module(self.x))


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(5)
    return TensorDataset(torch.randn(64, 16, generator=generator), torch.randint(4, (64,), generator=generator))


def loader(batch_size: int = 16) -> DataLoader[Any]:
    return DataLoader(data(), batch_size)


def make_trainer(folder: Path, epochs: int, *callbacks: Callback, **options: Any) -> Trainer:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    defaults = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, **quiet}
    return Trainer(max_epochs=epochs, callbacks=list(callbacks), default_root_dir=folder, **(defaults | options))


def test_a_module_is_compressed_before_its_optimizers_are_made(tmp_path: Path) -> None:
    model = Classifier()
    dense = shapeshift.count_parameters(model)
    watch = Watch(data()[:4][0])
    callback = ShapeshiftCallback("60%", shapeshift.Config(seed=3), module="model")
    make_trainer(tmp_path, 2, callback, watch, enable_model_summary=True).fit(model, loader())
    assert 0.99 * int(0.6 * dense) <= shapeshift.count_parameters(model) <= 0.6 * dense
    assert model.model.shapeshift.plan.budget == int(0.6 * dense)

    by_hand = Classifier()
    shapeshift.compress(by_hand.model, "60%", seed=3)
    make_trainer(tmp_path, 2).fit(by_hand, loader())
    assert_close(model.state_dict(), by_hand.state_dict(), "identical")
    assert (watch.outputs[0][0] - watch.outputs[1][1]).abs().max() > 1e-3


def test_a_whole_lightning_module_can_be_compressed(tmp_path: Path) -> None:
    model = Classifier()
    make_trainer(tmp_path, 1, ShapeshiftCallback("60%")).fit(model, loader())
    assert isinstance(model, Classifier)
    assert set(model.shapeshift) == {"all"}
    assert model.shapeshift.plan.groups[0].weights[0].name == "model.0.weight"
    x = data()[:4][0]
    assert_close(shapeshift.materialize(copy.deepcopy(model))(x), model(x), "identical")


def test_a_schedule_changes_the_sharing_and_keeps_the_function(tmp_path: Path) -> None:
    model, watch = Classifier(), Watch(data()[:4][0])
    callback = ShapeshiftCallback("110%", module="model", schedule={4: PAIRS, 2: SHAPES})
    make_trainer(tmp_path, 6, callback, watch).fit(model, loader())
    assert watch.groups[0] == watch.groups[1] == ["all"]
    assert watch.groups[2] == watch.groups[3] == ["24x16", "24x24", "4x24"]
    assert watch.groups[4] == watch.groups[5] == ["a", "b"]
    for (_, before), (after, _) in itertools.pairwise(watch.outputs):
        assert_close(after, before, "fitted")
    for before, after in watch.outputs:
        assert (after - before).abs().max() > 1e-3
    # The learning rate goes on as if nothing had happened.
    reference = Classifier()
    make_trainer(tmp_path, 6).fit(reference, loader())
    assert model.rates == reference.rates
    assert len(set(model.rates)) == 6


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_training_is_resumed_wherever_the_schedule_was(stop: int, tmp_path: Path) -> None:
    def callback() -> ShapeshiftCallback:
        first = shapeshift.Config(mapping="random", num_groups=2, seed=4)
        return ShapeshiftCallback("60%", first, module="model", schedule={2: SHAPES, 4: PAIRS})

    whole = Classifier()
    make_trainer(tmp_path, 6, callback()).fit(whole, loader())

    saving = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    make_trainer(tmp_path, stop, callback(), saving, enable_checkpointing=True).fit(Classifier(), loader())
    resumed = Classifier(seed=9)  # whose values are of no account
    make_trainer(tmp_path, 6, callback()).fit(resumed, loader(), ckpt_path=tmp_path / f"epoch={stop - 1}.ckpt")
    assert_close(resumed.state_dict(), whole.state_dict(), "identical")
    assert whole.rates[-len(resumed.rates) :] == resumed.rates
    assert len(resumed.rates) == 4 * (6 - stop)
    assert resumed.loaded == [stop - 1]
    assert "on_load_checkpoint" not in vars(resumed)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_checkpoint_in_the_middle_of_an_epoch_is_resumed(tmp_path: Path) -> None:
    def callback() -> ShapeshiftCallback:
        return ShapeshiftCallback("60%", ONE, module="model", schedule={1: SHAPES, 2: PAIRS})

    class Start(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.state = copy.deepcopy(pl_module.state_dict())

    saving = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=6)
    make_trainer(tmp_path, 2, callback(), saving, enable_checkpointing=True).fit(Classifier(), loader())
    resumed, start, file = Classifier(seed=9), Start(), tmp_path / "step=6.ckpt"
    make_trainer(tmp_path, 3, callback(), start).fit(resumed, loader(), ckpt_path=file)
    assert_close(start.state, torch.load(file, weights_only=False)["state_dict"], "identical")
    assert any("24x24" in name for name in start.state)
    assert list(resumed.model.shapeshift) == ["a", "b"]


def test_checkpoints_of_every_epoch_are_tested(tmp_path: Path) -> None:
    def callback() -> ShapeshiftCallback:
        return ShapeshiftCallback("60%", module="model", schedule={1: SHAPES, 2: PAIRS})

    x, outputs = data()[:8][0], []

    class Record(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            outputs.append(pl_module(x).detach())

    model = Classifier()
    saving = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    trainer = make_trainer(tmp_path, 3, callback(), Record(), saving, enable_checkpointing=True)
    trainer.fit(model, loader())
    for epoch in (0, 1, 2, 0):
        path = tmp_path / f"epoch={epoch}.ckpt"
        (result,) = trainer.test(model, loader(64), ckpt_path=path, verbose=False)
        assert_close(model(x), outputs[epoch], "identical")
        fresh = Classifier(seed=7)
        (again,) = make_trainer(tmp_path, 1, callback()).test(fresh, loader(64), ckpt_path=path, verbose=False)
        assert_close(fresh(x), outputs[epoch], "identical")
        assert again == result


def test_a_model_is_fitted_on_by_the_same_and_by_another_trainer(tmp_path: Path) -> None:
    model = Classifier()
    callback = ShapeshiftCallback("60%", module="model", schedule={1: SHAPES})
    make_trainer(tmp_path, 2, callback).fit(model, loader())
    groups = model.model.shapeshift
    make_trainer(tmp_path, 1, callback).fit(model, loader())
    assert model.model.shapeshift is groups


def test_the_plain_copy_is_written_and_training_is_left_alone(tmp_path: Path) -> None:
    model, file = Classifier(), tmp_path / "deep" / "plain.pt"
    callback = ShapeshiftCallback("60%", module="model", export=file)
    trainer = make_trainer(tmp_path, 2, callback)
    trainer.fit(model, loader())
    plain = network()
    plain.load_state_dict(torch.load(file))
    x = data()[:8][0]
    assert_close(plain(x), model(x), "identical")
    assert shapeshift.is_compressed(model)
    held = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}

    without = Classifier()
    make_trainer(tmp_path, 2, ShapeshiftCallback("60%", module="model")).fit(without, loader())
    assert_close(model.state_dict(), without.state_dict(), "identical")


def test_the_plain_copy_of_a_whole_module_is_written(tmp_path: Path) -> None:
    model, file = Classifier(), tmp_path / "plain.pt"
    make_trainer(tmp_path, 1, ShapeshiftCallback("60%", export=file)).fit(model, loader())
    plain = Classifier(seed=8)
    plain.load_state_dict(torch.load(file))
    x = data()[:8][0]
    assert_close(plain(x), model(x), "identical")


def test_two_modules_are_compressed_by_two_callbacks(tmp_path: Path) -> None:
    class Pair(Classifier):
        def __init__(self, seed: int = 0) -> None:
            super().__init__(seed, lambda model: [{"params": list(model.parameters())}])
            self.other = network()

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x) + self.other(x)

    def callbacks() -> list[ShapeshiftCallback]:
        return [
            ShapeshiftCallback("60%", SHAPES, module="model"),
            ShapeshiftCallback("80%", shapeshift.Config(seed=3), module="other", schedule={1: PAIRS}),
        ]

    model, saving = Pair(), ModelCheckpoint(tmp_path, filename="last")
    make_trainer(tmp_path, 2, *callbacks(), saving, enable_checkpointing=True).fit(model, loader())
    assert list(model.model.shapeshift) == ["24x16", "24x24", "4x24"]
    assert list(model.other.shapeshift) == ["a", "b"]
    fresh = Pair(seed=7)
    make_trainer(tmp_path, 1, *callbacks()).test(fresh, loader(64), ckpt_path=tmp_path / "last.ckpt", verbose=False)
    assert_close(fresh.state_dict(), model.state_dict(), "identical")


def test_a_module_in_training_is_copied_and_pickled(tmp_path: Path) -> None:
    x, seen = data()[:4][0], []

    class Copy(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
            pl_module.groups = None
            copies = [copy.deepcopy(pl_module), pickle.loads(pickle.dumps(pl_module.model))]
            seen.append([pl_module(x), *(found(x) for found in copies)])

    make_trainer(tmp_path, 1, ShapeshiftCallback("60%", module="model"), Copy()).fit(Classifier(), loader())
    ((expected, *found),) = seen
    for output in found:
        assert_close(output, expected, "identical")


def test_what_is_wrong_is_said_before_anything_is_changed(tmp_path: Path) -> None:
    for epoch in (0, -1, True, "2"):
        with pytest.raises(ConfigError, match="is not an epoch at which the sharing could change"):
            ShapeshiftCallback("60%", schedule={epoch: SHAPES})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="cannot be fitted"):
        ShapeshiftCallback("60%", schedule={1: shapeshift.Config(combine="softmax")})
    with pytest.raises(ConfigError, match=r"must be a shapeshift\.Config, not 'shape'"):
        ShapeshiftCallback("60%", schedule={1: "shape"})  # type: ignore[dict-item]
    for options, error, text in (
        ({"module": "modle"}, ModelError, r"no module 'modle' to compress.*in __init__; did you mean 'model' or"),
        ({"budget": 10}, shapeshift.BudgetError, "the least for this model"),
        ({"schedule": {1: shapeshift.Config(exclude=["head"])}}, ConfigError, "'head' matches no parameter"),
        ({"schedule": {1: shapeshift.Config(exclude=["*.weight"])}}, ModelError, "no weight that could be generated"),
    ):
        model = Classifier()
        with pytest.raises(error, match=text):
            make_trainer(tmp_path, 1, ShapeshiftCallback(**{"budget": "60%", **options})).fit(model, loader())
        assert not shapeshift.is_compressed(model)


def test_a_schedule_is_refused_where_parameters_cannot_be_exchanged() -> None:
    trainer, model = SimpleNamespace(strategy=SimpleNamespace()), Classifier()
    with pytest.raises(ConfigError, match="takes one device or DDP"):
        ShapeshiftCallback("60%", schedule={1: SHAPES}).setup(trainer, model, "fit")  # type: ignore[arg-type]
    assert not shapeshift.is_compressed(model)


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, filename="last")
    callback = ShapeshiftCallback("60%", module="model")
    make_trainer(tmp_path, 1, callback, saving, enable_checkpointing=True).fit(Classifier(), loader())
    other = Classifier()
    other.model[2] = nn.Linear(24, 24, bias=False)
    other.model[4] = nn.Linear(24, 30)
    other.model[6] = nn.Linear(30, 24)
    trainer = make_trainer(tmp_path, 1, ShapeshiftCallback("60%", module="model"))
    with pytest.raises(CheckpointError, match=r"has another architecture(.|\n)*4\.weight is \(24, 24\) in"):
        trainer.test(other, loader(), ckpt_path=tmp_path / "last.ckpt", verbose=False)
    held = {name for name, _ in other.model.shapeshift.named_parameters(prefix="shapeshift")}
    assert held <= set(other.model.state_dict())
    assert other(data()[:4][0]).shape == (4, 4)


def test_learning_rates_start_over_where_parameter_groups_are_others(tmp_path: Path) -> None:
    def one_for_each(model: nn.Module) -> list[dict[str, Any]]:
        return [{"params": [parameter]} for parameter in model.parameters()]

    model = Classifier(groups=one_for_each)
    callback = ShapeshiftCallback("60%", module="model", schedule={2: SHAPES})
    with pytest.warns(UserWarning, match="parameter groups after the sharing has changed.*start over"):
        make_trainer(tmp_path, 4, callback).fit(model, loader())
    assert model.rates[:8] == model.rates[8:]
    assert model.rates[0] != model.rates[4]


def work(rank: int, port: int, folder: Path) -> None:
    """Train as one of two processes, as torchrun would start them."""
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        GLOO_SOCKET_IFNAME="lo",
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2",
        GROUP_RANK="0",
        TORCHELASTIC_RUN_ID="test",
    )
    model = Classifier(seed=rank)  # the first process's values count
    callback = ShapeshiftCallback("60%", ONE, module="model", schedule={1: SHAPES}, export=folder / "plain.pt")
    trainer = make_trainer(folder, 3, callback, strategy="ddp", devices=2, use_distributed_sampler=False)
    sampler = DistributedSampler(data(), 2, rank, shuffle=False)
    trainer.fit(model, DataLoader(data(), 8, sampler=sampler))
    torch.save(model.state_dict(), folder / f"{rank}.pt")
    trainer.strategy.barrier()
    dist.destroy_process_group()


@needs_gloo
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # of Python 3.12 and newer
def test_two_processes_train_as_one_does_through_a_schedule(tmp_path: Path) -> None:
    # Forked: importing Lightning again takes longer than the test.
    mp.start_processes(work, (free_port(), tmp_path), nprocs=WORLD, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD))
    assert_close(first, second, "identical")
    assert any("24x24" in name for name in first)

    one, plain = Classifier(), network()
    callback = ShapeshiftCallback("60%", ONE, module="model", schedule={1: SHAPES})
    make_trainer(tmp_path, 3, callback).fit(one, loader())
    plain.load_state_dict(torch.load(tmp_path / "plain.pt"))
    x = data()[:8][0]
    assert_close(plain(x), one(x), "fitted")
