"""Options of transformers' Trainer: the first loss is the plain model's, and training lowers it."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

import shapeshift
import shapeshift.integrations.transformers
from benchmarks.compatibility.check import check, equal
from benchmarks.compatibility.peft_checks import language_model

GROUP = "transformers' Trainer"
STEPS = 4
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "bf16": {"bf16": True},
    "gradient_checkpointing": {"gradient_checkpointing": True},
    "gradient_checkpointing, reentrant": {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": True},
    },
    "gradient_accumulation_steps": {"gradient_accumulation_steps": 2},
    "label_smoothing_factor": {"label_smoothing_factor": 0.1},
    'optim="adafactor"': {"optim": "adafactor"},
}


def _trainer(model: Any, folder: str, **options: Any) -> transformers.Trainer:
    """Return a trainer that sees the same batch in each step, and writes no files unless it is asked to."""
    tokens = torch.arange(16).remainder(7).view(2, 8)
    examples: Any = [{"input_ids": row, "labels": row} for row in tokens] * 2 * STEPS
    quiet = {"report_to": [], "disable_tqdm": True, "save_strategy": "no", "use_cpu": True, "logging_steps": 1}
    chosen: dict[str, Any] = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.01,
        "lr_scheduler_type": "constant",
        **quiet,
        **options,
    }
    for dropout in (module for module in model.modules() if isinstance(module, torch.nn.Dropout)):
        dropout.p = 0.0
    arguments = transformers.TrainingArguments(folder, **chosen)
    trainer = transformers.Trainer(model, arguments, train_dataset=examples, eval_dataset=examples)
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _losses(trainer: transformers.Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def _compressed() -> Any:
    return shapeshift.compress(language_model(), "60%", seed=0)


def _register(name: str, options: dict[str, Any]) -> None:
    @check(GROUP, name)
    def _option() -> None:
        compressed = _compressed()
        losses = []
        with tempfile.TemporaryDirectory() as folder:
            for model in (compressed, shapeshift.materialize(copy.deepcopy(compressed))):
                trainer = _trainer(model, folder, **options)
                trainer.train()
                losses.append(_losses(trainer))
        equal(torch.tensor(losses[0][0]), torch.tensor(losses[1][0]))
        assert losses[0][-1] < losses[0][0]


@check(GROUP, "resume_from_checkpoint")
def _resume() -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole, resumed = _compressed(), _compressed()
        _trainer(whole, folder, save_strategy="steps", save_steps=STEPS // 2).train()
        with torch.no_grad():
            for parameter in resumed.parameters():
                parameter.zero_()
        _trainer(resumed, folder).train(resume_from_checkpoint=str(Path(folder, f"checkpoint-{STEPS // 2}")))
    equal(dict(resumed.named_parameters()), dict(whole.named_parameters()))


@check(GROUP, "load_best_model_at_end")
def _best() -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = _compressed()
        saving = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
        trainer = _trainer(model, folder, load_best_model_at_end=True, **saving)
        trainer.train()
        best = type(model).from_pretrained(trainer.state.best_model_checkpoint)
    equal(dict(model.named_parameters()), dict(best.named_parameters()))


@check(GROUP, "save_model and from_pretrained")
def _save() -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = _compressed()
        _trainer(model, folder).save_model(folder)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokens = torch.tensor([[1, 2, 3]])
    equal(loaded(tokens).logits, model.eval()(tokens).logits)


for _name, _options in OPTIONS.items():
    _register(_name, _options)
