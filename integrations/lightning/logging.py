"""Logging of shared parameters by Lightning's loggers."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from shapeshift.metrics import metrics


class LogSharing(Callback):
    """Log :func:`shapeshift.metrics` of a compressed module, each time that the Trainer logs a step.

    Args:
        module: The dotted path of the compressed module in the LightningModule. An empty path means the LightningModule
            itself.

    Raises:
        ModelError: In the first step that is logged, if the module is not compressed.

    Example:
        >>> from shapeshift.integrations.lightning import LogSharing, ShapeshiftCallback
        >>> callbacks = [ShapeshiftCallback("25%", module="network"), LogSharing("network")]
        >>> callbacks[1].module
        'network'
    """

    def __init__(self, module: str = "") -> None:
        self.module = module

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Read the norms while the gradients are there."""
        if (trainer.global_step + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            pl_module.log_dict(metrics(pl_module.get_submodule(self.module)))
