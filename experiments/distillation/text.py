"""Distil a small BERT into a smaller one with a Trainer. The task: find the module that four lines of code are from."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import transformers
from torch import nn

from shapeshift.distill import Distiller
from shapeshift.experiments.data.text import MODULES, Passages, passages
from shapeshift.experiments.data.vocabulary import PADDING
from shapeshift.experiments.distillation.script import compare, make_parser
from shapeshift.integrations.transformers.distillation import DistillationTrainer


def main(argv: Sequence[str] | None = None) -> int:
    """Train the teacher, the student alone and the student with each method, and print the table."""
    parser = make_parser("shapeshift.experiments.distillation.text", __doc__, epochs=4, methods=["kd", "srrl"])
    parser.add_argument("--train-size", type=int, help="the number of passages to train on; None means all")
    parser.add_argument("--teacher-size", type=int, default=64, help="the teacher's hidden size")
    parser.add_argument("--student-size", type=int, default=32, help="the student's hidden size")
    parser.add_argument("--batch-size", type=int, default=32, help="the number of passages of a step")
    parser.add_argument("--lr", type=float, default=2e-3, help="the largest learning rate")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16 where torch.autocast allows it")
    arguments = parser.parse_args(argv)
    # Messages of the trainer would break up the progress bar.
    transformers.utils.logging.set_verbosity_error()
    training, test = passages()
    items = _items(training)[: arguments.train_size]

    def train(model: nn.Module, distiller: Distiller | None, on_epoch: Callable[[], None]) -> nn.Module:
        with tempfile.TemporaryDirectory() as folder:
            settings = transformers.TrainingArguments(
                output_dir=folder,
                num_train_epochs=arguments.epochs,
                per_device_train_batch_size=arguments.batch_size,
                learning_rate=arguments.lr,
                warmup_steps=0.1,
                weight_decay=0.01,
                seed=arguments.seed,
                bf16=arguments.bf16,
                use_cpu=arguments.device == "cpu",
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
            )
            options: dict[str, Any] = {"train_dataset": items, "callbacks": [_OnEpoch(on_epoch)]}
            if distiller is None:
                trainer = transformers.Trainer(model, settings, **options)
            else:
                trainer = DistillationTrainer(model, settings, distiller=distiller, **options)
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()
        # The trainer leaves its autocast in the model. Without this, tests and distillation would run in it too.
        trained: nn.Module = trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        return trained

    compare(
        f"BERT of size {arguments.student_size} from one of size {arguments.teacher_size} on passages of "
        f"{len(MODULES)} modules",
        arguments,
        partial(_bert, arguments.teacher_size, training),
        partial(_bert, arguments.student_size, training),
        train,
        partial(_error, test=test),
    )
    return 0


def _bert(size: int, data: Passages) -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=data.vocabulary,
        hidden_size=size,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * size,
        max_position_embeddings=data.tokens.shape[1],
        num_labels=len(MODULES),  # type: ignore[call-arg]
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=size**-0.5,  # the default is for hidden sizes of several hundred
        pad_token_id=PADDING,
    )
    return transformers.BertForSequenceClassification(config)


def _items(data: Passages) -> list[dict[str, Any]]:
    rows = zip(data.tokens, data.mask, data.labels, strict=True)
    return [{"input_ids": tokens, "attention_mask": mask, "labels": label} for tokens, mask, label in rows]


@torch.inference_mode()
def _error(model: nn.Module, test: Passages) -> float:
    model.eval()
    device = next(model.parameters()).device
    parts = zip(test.tokens.split(256), test.mask.split(256), strict=True)
    logits = torch.cat([model(tokens.to(device), mask.to(device)).logits.cpu() for tokens, mask in parts])
    return (logits.argmax(1) != test.labels).float().mean().item() * 100


class _OnEpoch(transformers.TrainerCallback):
    """Calls a function after each epoch."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.call()


if __name__ == "__main__":
    raise SystemExit(main())
