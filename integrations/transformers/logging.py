"""Logging of shared parameters by transformers' Trainer."""

from __future__ import annotations

from typing import Any, cast

from torch import nn
from transformers import Trainer, TrainerCallback

from shapeshift.metrics import metrics
from shapeshift.surgery.roots import require_root


class LogSharing(TrainerCallback):
    """Adds :func:`shapeshift.metrics` to what the Trainer logs; :func:`log_sharing` puts it in its place."""

    def __init__(self) -> None:
        self._found: dict[str, float] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the norms of the gradients, which are gone after the step, for the steps that are logged."""
        step = state.global_step + 1
        if step == 1 or step % max(1, int(state.logging_steps or 1)) == 0:
            self._found = metrics(kwargs["model"])

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Add the values to those of the training loss, before other callbacks report them."""
        if logs is not None and "loss" in logs:
            logs.update(self._found or metrics(kwargs["model"]))
            self._found = {}


def log_sharing(trainer: Trainer) -> None:
    """Let a Trainer log how the shared parameters train, to whatever ``report_to`` names.

    Args:
        trainer: A Trainer of a compressed model. At each logging step it reports :func:`shapeshift.metrics` besides
            its own values.

    Raises:
        ModelError: If its model is not compressed.

    Example:
        >>> import shapeshift
        >>> from transformers import GPT2Config, GPT2LMHeadModel, Trainer
        >>> from shapeshift.integrations.transformers import log_sharing
        >>> model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=64))
        >>> trainer = Trainer(shapeshift.compress(model, "50%"))
        >>> log_sharing(trainer)
    """
    require_root(cast(nn.Module, trainer.model))
    # Callbacks are called in their order, and those that report come first.
    trainer.callback_handler.callbacks.insert(0, LogSharing())
