"""A callback that compresses a module before training, and writes a plain copy at the end."""

from __future__ import annotations

import ast
import copy
import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, ModelPruning
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

from shapeshift.budget import Budget
from shapeshift.checkpoint.checkpoint import Checkpoint, stamped
from shapeshift.checkpoint.snapshot import Snapshot
from shapeshift.compression import compress, materialize, plan_compression
from shapeshift.config import Config
from shapeshift.errors import CheckpointError, ConfigError, ModelError
from shapeshift.names import did_you_mean
from shapeshift.surgery.install import install, replace
from shapeshift.surgery.roots import is_compressed, require_root, require_shared
from shapeshift.surgery.shared_parameters import ATTRIBUTE, SharedParameters
from shapeshift.surgery.sharing import sharing_difference


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
            generated once for each call of this module. An empty path means the LightningModule itself. A module that
            has no parameters yet is compressed as soon as ``configure_model`` has built it.
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
        """Compress the module if it is not compressed yet, or let ``configure_model`` do so if it builds the module."""
        scheduled = len(self._configs) > 1
        if scheduled and not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise ConfigError(
                f"a schedule takes one device or DDP, and not the {type(trainer.strategy).__name__} of this Trainer: "
                "it cannot exchange parameters while it trains"
            )
        for callback in _others(trainer, BaseFinetuning) if scheduled else ():
            raise ConfigError(
                f"{type(callback).__name__} freezes parameters, and a schedule replaces them by others that are not "
                "frozen: leave out the schedule, or the callback"
            )
        for pruning in _others(trainer, ModelPruning):
            if not getattr(pruning, "_parameters_to_prune", True):
                raise ConfigError(
                    f"{type(pruning).__name__} chooses parameters by itself, and would pass over generated weights: "
                    "name the parameters in parameters_to_prune=, or prune before shapeshift.compress(model, ...)"
                )
        if not self._is_built_later(pl_module):
            self._compress(trainer, pl_module)
        if is_overridden("configure_model", pl_module):
            then = partial(self._configure_model, trainer, pl_module, pl_module.configure_model)
            pl_module.configure_model = then  # type: ignore[method-assign]
        # A checkpoint is read after setup. The module has to be shared as the checkpoint says before its values are
        # loaded, and only the module's own hook is called early enough.
        hook = partial(self._before_loading, trainer, pl_module, pl_module.on_load_checkpoint)
        pl_module.on_load_checkpoint = hook  # type: ignore[method-assign]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the hooks that :meth:`setup` added."""
        for hook in ("on_load_checkpoint", "configure_model"):
            pl_module.__dict__.pop(hook, None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the hooks after an error, where Lightning does not call :meth:`teardown`."""
        self.teardown(trainer, pl_module, "fit")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise if a finetuning callback has frozen layers, and not the shared parameters that generate their weights.

        Raises:
            ConfigError: if so.
        """
        for callback in _others(trainer, BaseFinetuning):
            module = self._find(pl_module)
            frozen = {parameter for parameter in pl_module.parameters() if not parameter.requires_grad}
            elsewhere = bool(frozen) and not frozen & set(module.parameters())
            if elsewhere or frozen & set(require_shared(module).parameters()):
                continue
            raise ConfigError(
                f"{type(callback).__name__} has frozen none of the shared parameters of {self.module or 'the module'}, "
                "and these generate the weights of its layers, which would be trained all the same. Give the part a "
                'group of its own, by Config(mapping={"backbone": "backbone", "*": "rest"}), say, and in a '
                "BaseFinetuning of your own freeze and unfreeze the part with its group: self.freeze([part, "
                f'pl_module{"." * bool(self.module)}{self.module}.shapeshift["backbone"]])'
            )

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
        self, trainer: Trainer, pl_module: LightningModule, then: Callable[..., Any], checkpoint: dict[str, Any]
    ) -> None:
        """Share the module as the checkpoint says before its values are loaded, and call the module's own hook."""
        # A strategy that loads after its own setup holds the present parameters already: they have to match.
        if self.state_key in checkpoint and not trainer.strategy.restore_checkpoint_after_setup:
            state = checkpoint[self.state_key]
            _share_as(self._find(pl_module), state["description"], Path(trainer.ckpt_path or ""))
            self._since = state["since"]
        then(checkpoint)

    def _is_built_later(self, pl_module: LightningModule) -> bool:
        """Tell whether the module has no parameters before ``configure_model`` is called."""
        if not is_overridden("configure_model", pl_module):
            return False
        try:
            return next(pl_module.get_submodule(self.module).parameters(), None) is None
        except AttributeError:
            return True

    def _configure_model(self, trainer: Trainer, pl_module: LightningModule, then: Callable[[], Any]) -> None:
        """Build the module, and compress it."""
        then()
        self._compress(trainer, pl_module)

    def _compress(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compress the module if it is not compressed yet, after planning every config of the schedule."""
        module = self._find(pl_module)
        if is_compressed(module):
            return
        for callback in trainer.callbacks[: trainer.callbacks.index(self)]:  # type: ignore[attr-defined]
            if isinstance(callback, BaseFinetuning) or _holds_copy(callback, pl_module, module):
                raise ConfigError(
                    f"{type(callback).__name__} comes before {type(self).__name__} in the Trainer's callbacks, and has "
                    "copied or frozen parameters that do not exist any more once the module is compressed: "
                    f"list {type(self).__name__} first"
                )
        for config in self._configs.values():
            plan_compression(module, self.budget, config)
        compress(module, self.budget, self._configs[0])
        self._since = 0

    def _find(self, pl_module: LightningModule) -> nn.Module:
        try:
            return pl_module.get_submodule(self.module)
        except AttributeError:
            hint = did_you_mean(self.module, [path for path, _ in pl_module.named_modules() if path])
            raise ModelError(
                f"{type(pl_module).__name__} has no module {self.module!r} to compress. It has to be there before the "
                f"Trainer's setup, or after configure_model: make it in __init__{hint}"
            ) from None


def share_as_saved(pl_module: LightningModule, checkpoint: Mapping[str, Any]) -> None:
    """Share the weights of a LightningModule as a checkpoint of a Trainer with a :class:`ShapeshiftCallback` says.

    Call it in ``on_load_checkpoint``. Then ``load_from_checkpoint``, and a Trainer without the callback, load
    checkpoints of compressed modules.

    Args:
        pl_module: The LightningModule, plain or compressed. Its values are not those of the checkpoint yet.
        checkpoint: The checkpoint. One that no callback has written to leaves the module as it is.

    Raises:
        CheckpointError: if the checkpoint is of another architecture, or was written with ``save_weights_only=True``.

    Example:
        >>> from torch import nn
        >>> from lightning.pytorch import LightningModule
        >>> from shapeshift.integrations.lightning import share_as_saved
        >>> class Classifier(LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network = nn.Linear(64, 10)
        ...
        ...     def on_load_checkpoint(self, checkpoint):
        ...         share_as_saved(self, checkpoint)
    """
    states = {key: state for key, state in checkpoint.items() if isinstance(state, dict) and "description" in state}
    for key, state in states.items():
        path = ast.literal_eval(key[key.index("{") :])["module"]  # as state_key has written it
        _share_as(pl_module.get_submodule(path), state["description"], Path("the checkpoint"))
    unknown = [name for name in checkpoint["state_dict"] if f".{ATTRIBUTE}." in f".{name}"]
    if unknown and not is_compressed(pl_module):
        raise CheckpointError(
            f"the checkpoint has shared parameters ({unknown[0]}), and does not say how they are shared, as with "
            "save_weights_only=True: compress the module in __init__ as it was compressed for the checkpoint"
        )


def _share_as(module: nn.Module, description: str, file: Path) -> None:
    """Share a plain or compressed module as a checkpoint describes. Its values are loaded later."""
    checkpoint = Checkpoint.parse(json.loads(description), file)
    plan = checkpoint.plan
    if is_compressed(module) and plan and sharing_difference(plan, require_shared(module).plan) is None:
        require_shared(module).fit_errors = checkpoint.fit_errors
        return  # an optimizer may hold the parameters already

    def build(plain: nn.Module) -> SharedParameters:
        shared = checkpoint.build_shared(checkpoint.plan_for(plain))
        shared.reset_parameters()  # for the fixed patterns, which no checkpoint holds
        return shared

    if is_compressed(module):
        replace(require_root(module), build)
    else:
        install(module, build(module))


def _others(trainer: Trainer, kind: type[Callback]) -> list[Callback]:
    """Return the Trainer's callbacks of a kind."""
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]  # type: ignore[attr-defined]


def _holds_copy(callback: Callback, pl_module: LightningModule, module: nn.Module) -> bool:
    """Tell whether a callback holds a copy of a module of the LightningModule, or of its state dict."""
    own = set(pl_module.modules())
    shapes = [parameter.shape for parameter in module.parameters()]
    names = [{name for name, _ in found.named_parameters()} for found in (module, pl_module)]
    for held in vars(callback).values():
        copies = set(held.modules()) - own if isinstance(held, nn.Module) else ()
        if any([parameter.shape for parameter in copied.parameters()] == shapes for copied in copies):
            return True
        if isinstance(held, Mapping) and any(held.keys() >= found for found in names):
            return True
    return False


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
