"""A Lightning callback that compresses a module before training, and writes a plain copy at the end."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from shapeshift.budget import Budget
from shapeshift.checkpoint.checkpoint import Checkpoint, stamped
from shapeshift.checkpoint.snapshot import Snapshot
from shapeshift.compression import compress, materialize, plan_compression
from shapeshift.config import Config
from shapeshift.errors import ConfigError, ModelError
from shapeshift.names import did_you_mean
from shapeshift.surgery.install import replace
from shapeshift.surgery.roots import is_compressed, require_root
from shapeshift.surgery.shared_parameters import SharedParameters


class ShapeshiftCallback(Callback):
    """Compress a LightningModule, or a module in it, before its optimizers are made.

    With a schedule, the sharing changes at the start of some epochs. The module is then materialized and compressed
    again within the same budget, and the new shared parameters are fitted to its weights. The optimizers and learning
    rate schedules are made again, and the schedules continue where they were. The Trainer's checkpoints record how the
    module is shared, so training can be resumed at any epoch, and ``Trainer.test`` loads a checkpoint of any epoch.

    Args:
        budget: The parameter budget, as in :func:`shapeshift.compress`.
        config: The sharing at the start. None means the default :class:`shapeshift.Config`.
        module: The dotted path of the module to compress, usually the network that ``training_step`` calls. Weights are
            generated once for each call of this module. An empty path means the LightningModule itself.
        schedule: A dict from an epoch, counted from 0, to the sharing from the start of that epoch on. A schedule takes
            one device or DDP.
        export: A file for the state dict of the materialized module, written with ``torch.save`` when the fit ends. The
            trained module itself stays compressed.

    Raises:
        ConfigError: if an epoch of the schedule is not a positive integer, or a config cannot be fitted.

    Example:
        >>> import shapeshift
        >>> from shapeshift.integrations.lightning import ShapeshiftCallback
        >>> schedule = {10: shapeshift.Config(mapping="shape")}
        >>> callback = ShapeshiftCallback("25%", module="network", schedule=schedule, export="plain.pt")
        >>> callback.module
        'network'
    """

    def __init__(
        self,
        budget: Budget,
        config: Config | None = None,
        *,
        module: str = "",
        schedule: Mapping[int, Config] | None = None,
        export: str | os.PathLike[str] | None = None,
    ) -> None:
        for epoch in schedule or ():
            if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 1:
                raise ConfigError(
                    f"schedule: {epoch!r} is not an epoch at which the sharing could change; they are counted from 0, "
                    "and what holds from epoch 0 on is config"
                )
        self.budget = budget
        self.module = module
        self.export = None if export is None else Path(export)
        fitted = {epoch: Config.chosen(found, {"init": "fit"}) for epoch, found in sorted((schedule or {}).items())}
        self._configs = {0: Config.chosen(config, {}), **fitted}
        self._since = 0

    @property
    def state_key(self) -> str:
        return self._generate_state_key(module=self.module)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compress the module if it is not compressed yet, after planning every config of the schedule."""
        module = self._find(pl_module)
        if len(self._configs) > 1 and not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise ConfigError(
                f"a schedule takes one device or DDP, and not the {type(trainer.strategy).__name__} of this Trainer: "
                "it cannot exchange parameters while it trains"
            )
        if not is_compressed(module):
            for config in self._configs.values():
                plan_compression(module, self.budget, config)
            compress(module, self.budget, self._configs[0])
            self._since = 0
        # A checkpoint is read after setup. The module has to be shared as the checkpoint says before its values are
        # loaded, and only the module's own hook is called early enough.
        hook = partial(self._before_loading, trainer, pl_module, pl_module.on_load_checkpoint)
        pl_module.on_load_checkpoint = hook  # type: ignore[method-assign]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the hook that :meth:`setup` added."""
        pl_module.__dict__.pop("on_load_checkpoint", None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the hook after an error, where Lightning does not call :meth:`teardown`."""
        self.teardown(trainer, pl_module, "fit")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Change the sharing if the schedule has a change at this epoch."""
        due = max(epoch for epoch in self._configs if epoch <= trainer.current_epoch)
        if due > self._since:  # never to an earlier sharing: a second fit counts its epochs from 0
            module = materialize(self._find(pl_module))
            compress(module, self.budget, self._configs[due])
            self._since = due
            _renew_training(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the state dict of a materialized copy."""
        if self.export is not None and trainer.is_global_zero:
            plain = materialize(copy.deepcopy(self._find(pl_module)))
            self.export.parent.mkdir(parents=True, exist_ok=True)
            torch.save(plain.state_dict(), self.export)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Record in a checkpoint how the module is shared, and since which epoch."""
        # As text: checkpoints are read with weights_only=True, which takes only tensors and plain Python types.
        description = json.dumps(stamped(Snapshot.of(self._find(pl_module)).description))
        checkpoint[self.state_key] = {"since": self._since, "description": description}

    def _before_loading(
        self, trainer: Trainer, pl_module: LightningModule, then: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Share the module as the checkpoint says before its values are loaded, and call the module's own hook."""
        # A strategy that loads after its own setup holds the present parameters already: they have to match.
        if self.state_key in checkpoint and not trainer.strategy.restore_checkpoint_after_setup:
            state = checkpoint[self.state_key]
            description = Checkpoint.parse(json.loads(state["description"]), Path(trainer.ckpt_path or ""))
            _share_as(self._find(pl_module), description)
            self._since = state["since"]
        then(checkpoint)

    def _find(self, pl_module: LightningModule) -> nn.Module:
        try:
            return pl_module.get_submodule(self.module)
        except AttributeError:
            hint = did_you_mean(self.module, [path for path, _ in pl_module.named_modules() if path])
            raise ModelError(
                f"{type(pl_module).__name__} has no module {self.module!r} to compress. It has to be there before the "
                f"Trainer's setup: make it in __init__{hint}"
            ) from None


def _share_as(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Share a compressed module as a checkpoint says. Its values are loaded later."""

    def build(plain: nn.Module) -> SharedParameters:
        shared = checkpoint.build_shared(checkpoint.plan_for(plain))
        shared.reset_parameters()  # for the fixed patterns, which no checkpoint holds
        return shared

    replace(require_root(module), build)


def _renew_training(trainer: Trainer, pl_module: LightningModule) -> None:
    """Make everything that refers to a module's parameters again: DDP's wrapper, optimizers and schedules."""
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy):
        strategy.model = pl_module
        strategy.configure_ddp()
    optimizers, schedules = strategy.optimizers, strategy.lr_scheduler_configs
    strategy.setup_optimizers(trainer)
    for old, new in zip(optimizers, strategy.optimizers, strict=True):
        if len(old.param_groups) != len(new.param_groups):
            rank_zero_warn(
                f"the {type(new).__name__} has {len(new.param_groups)} parameter groups after the sharing has changed, "
                f"and had {len(old.param_groups)} before: learning rates start over"
            )
            return
    for old, new in zip(optimizers, strategy.optimizers, strict=True):
        for before, after in zip(old.param_groups, new.param_groups, strict=True):
            after.update({key: value for key, value in before.items() if key != "params"})
    for present, renewed in zip(schedules, strategy.lr_scheduler_configs, strict=True):
        renewed.scheduler.load_state_dict(present.scheduler.state_dict())
