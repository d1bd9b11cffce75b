"""The Trainer with a distillation loss: its steps are those of a loop written out, in one process and in two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
)

import shapeshift
from shapeshift.distill import DISTILLERS, KD, WeightedSum
from shapeshift.integrations.transformers.distillation import DistillationTrainer
from tests.processes import WORLD, launch, needs_gloo
from tests.tolerances import assert_close

BATCH = 4


def bert(size: int, layers: int, seed: int) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=20,
        hidden_size=size,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=size,
        max_position_embeddings=16,
        num_labels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForSequenceClassification(config)


def teacher() -> BertForSequenceClassification:
    return bert(16, 4, seed=0)


def student(budget: str | None = None) -> BertForSequenceClassification:
    model = bert(8, 2, seed=1)
    return model if budget is None else shapeshift.compress(model, budget)


def build(method: str, budget: str | None = None) -> tuple[nn.Module, Any]:
    model = student(budget)
    torch.manual_seed(2)
    return model, DISTILLERS[method](teacher(), model)


def items(count: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(20, (count, 8), generator=generator)
    return [{"input_ids": row, "labels": row.sum() % 3} for row in tokens]


def batch(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def settings(folder: Path, **options: Any) -> TrainingArguments:
    """Plain gradient descent on items in their order, unless told otherwise."""
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": 1,
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return TrainingArguments(output_dir=str(folder), **(defaults | options))


def trainer(folder: Path, model: nn.Module, distiller: Any, count: int = 16, **options: Any) -> Any:
    return DistillationTrainer(model, settings(folder, **options), distiller=distiller, train_dataset=items(count))


def parameters(*modules: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for module in modules for parameter in module.parameters()]


def descend(model: nn.Module, distiller: nn.Module, steps: list[list[list[dict[str, Tensor]]]]) -> None:
    """Do what the trainer is to do, a list of batches for each step."""
    optimizer = torch.optim.SGD([*model.parameters(), *distiller.parameters()], lr=0.1)
    model.train()
    for batches in steps:
        optimizer.zero_grad()
        for rows in batches:
            x = batch(rows)
            loss = F.cross_entropy(model(x["input_ids"]).logits, x["labels"]) + distiller(x, x["labels"])
            (loss / len(batches)).backward()
        optimizer.step()


@pytest.mark.parametrize("budget", [None, "50%"], ids=["plain", "compressed"])
@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("method", list(DISTILLERS))
def test_a_step_is_that_of_a_loop_written_out(
    method: str, accumulated: int, budget: str | None, tmp_path: Path
) -> None:
    expected = build(method, budget)
    batches = [items(16)[start : start + BATCH] for start in range(0, 16, BATCH)]
    descend(*expected, [batches[start : start + accumulated] for start in range(0, len(batches), accumulated)])

    model, distiller = build(method, budget)
    before = parameters(model, distiller)
    trainer(tmp_path, model, distiller, gradient_accumulation_steps=accumulated).train()
    after = parameters(model, distiller)
    assert_close(after, parameters(*expected), "reordered")
    assert not any(torch.equal(*pair) for pair in zip(before[-1:], after[-1:], strict=True))


def test_evaluation_reports_the_models_own_loss(tmp_path: Path) -> None:
    model, distiller = build("srrl")
    rows = batch(items(16))
    with torch.no_grad():
        own = F.cross_entropy(model.eval()(rows["input_ids"]).logits, rows["labels"]).item()
    options = {"train_dataset": items(16), "eval_dataset": items(16)}
    training = DistillationTrainer(
        model, settings(tmp_path, per_device_eval_batch_size=16, logging_steps=1), distiller=distiller, **options
    )
    assert training.evaluate()["eval_loss"] == pytest.approx(own, rel=1e-5)
    training.train()
    logged = [entry["loss"] for entry in training.state.log_history if "loss" in entry]
    # The distiller's loss of networks that are not trained is far from none.
    assert logged[0] > own + 0.1


@pytest.mark.parametrize("budget", [None, "50%"], ids=["plain", "compressed"])
def test_a_resumed_run_ends_where_the_other_one_does(budget: str | None, tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch", "learning_rate": 1e-2}
    model, distiller = build("ofd", budget)
    trainer(tmp_path, model, distiller, **options).train()
    saved = safetensors.torch.load_file(tmp_path / "checkpoint-4" / "distiller.safetensors")
    assert_close(saved, distiller.state_dict(), "identical")

    torch.manual_seed(9)
    other = student(budget)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    again = DISTILLERS["ofd"](teacher(), other)
    assert not torch.equal(again.connectors[0].conv.weight, saved["connectors.0.conv.weight"])
    trainer(tmp_path, other, again, **options).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_close(other.state_dict(), model.state_dict(), "identical")
    assert_close(again.state_dict(), distiller.state_dict(), "identical")


def test_the_best_checkpoint_brings_its_connectors(tmp_path: Path) -> None:
    model, distiller = build("srrl")
    arguments = settings(
        tmp_path,
        save_strategy="steps",
        eval_strategy="steps",
        save_steps=1,
        eval_steps=1,
        learning_rate=10.0,  # worse with every step
        load_best_model_at_end=True,
        max_steps=3,
    )
    options = {"train_dataset": items(16), "eval_dataset": items(16)}
    training = DistillationTrainer(model, arguments, distiller=distiller, **options)
    training.train()
    best = Path(training.state.best_model_checkpoint)
    assert best.name != "checkpoint-3"
    assert_close(distiller.state_dict(), safetensors.torch.load_file(best / "distiller.safetensors"), "identical")


def test_half_precision_is_close_to_full(tmp_path: Path) -> None:
    seen: list[torch.dtype] = []
    ends = []
    for bf16 in (False, True):
        model, distiller = build("srrl", "50%")
        last = distiller.teacher.bert.encoder.layer[-1].output.dense
        last.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
        trainer(tmp_path, model, distiller, count=BATCH, bf16=bf16).train()
        ends.append(parameters(model, distiller))
    assert_close(ends[1], ends[0], "half")
    assert not all(torch.equal(*pair) for pair in zip(*ends, strict=True))
    # The teacher runs as the student does.
    assert seen == [torch.float32, torch.bfloat16]


def test_weight_decay_spares_norms_biases_and_coefficients(tmp_path: Path) -> None:
    model, distiller = build("ofd", "50%")
    training = trainer(tmp_path, model, distiller, weight_decay=0.1)
    groups = training.create_optimizer().param_groups
    found = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    expected = {
        id(parameter): group["weight_decay"]
        for group in shapeshift.parameter_groups(nn.ModuleList([model, distiller]), 0.1)
        for parameter in group["params"]
    }
    assert found == expected
    assert found[id(distiller.connectors[0].conv.weight)] == 0.1
    assert found[id(distiller.connectors[0].norm.weight)] == 0.0


def test_gradients_are_clipped_the_students_and_the_connectors_each(tmp_path: Path) -> None:
    model, distiller = build("ofd")
    before = parameters(model), parameters(distiller)
    trainer(tmp_path, model, distiller, count=BATCH, max_grad_norm=1e-2, learning_rate=1.0).train()
    for old, module in zip(before, (model, distiller), strict=True):
        steps = [new - start for new, start in zip(parameters(module), old, strict=True)]
        assert torch.stack([step.norm() for step in steps]).norm().item() == pytest.approx(1e-2, rel=1e-3)


def gpt2(seed: int) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    options = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "initializer_range": 0.5}
    return GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=16, n_embd=8, n_layer=1, n_head=2, **options))


@pytest.mark.parametrize("budget", [None, "75%"], ids=["plain", "compressed"])
def test_of_a_causal_language_model_the_tokens_that_count_are_the_next_ones(budget: str | None, tmp_path: Path) -> None:
    tokens = torch.randint(20, (2, 8))
    labels = tokens.clone()
    labels[:, :5] = -100  # a prompt: the first token to predict is number 5, from position 4
    model, source = gpt2(1), gpt2(0)
    if budget is not None:
        shapeshift.compress(model, budget)
    distiller = KD(source, model)
    training = trainer(tmp_path, model, distiller)
    training.create_optimizer()
    model.train()
    own = model(input_ids=tokens, labels=labels).loss
    ours, theirs = (network(input_ids=tokens).logits[:, 4:7].flatten(0, 1) for network in (model, source))
    loss = training.compute_loss(model, {"input_ids": tokens, "labels": labels})
    kl = F.kl_div((ours / 4).log_softmax(1), (theirs / 4).log_softmax(1), reduction="batchmean", log_target=True)
    assert_close(loss, own + 16 * kl, "reordered")


def test_label_smoothing_and_a_loss_of_ones_own_are_kept(tmp_path: Path) -> None:
    x = batch(items(BATCH))
    for options, given in (
        ({"label_smoothing_factor": 0.1}, {}),
        ({}, {"compute_loss_func": lambda outputs, labels, num_items_in_batch: outputs.logits.sum() / 7}),
    ):
        model, distiller = build("kd")
        plain = Trainer(model, settings(tmp_path, **options), **given)
        own = plain.compute_loss(model, dict(x)).detach()
        arguments = settings(tmp_path, **options)
        training = DistillationTrainer(model, arguments, distiller=distiller, train_dataset=items(4), **given)
        training.create_optimizer()
        training.current_gradient_accumulation_steps = 1
        model.train()
        loss = training.compute_loss(model, dict(x)).detach()
        model(x["input_ids"])
        assert_close(loss, own + distiller(x["input_ids"], x["labels"]).detach(), "reordered")


def test_what_cannot_work_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, distiller = build("ofd")
    arguments = settings(tmp_path)
    with pytest.raises(shapeshift.ModelError, match="no model"):
        DistillationTrainer(args=arguments, distiller=distiller, model_init=student)
    for wrong in (distiller, WeightedSum([(0.5, distiller)])):
        with pytest.raises(shapeshift.ModelError, match="the OFD reads another BertForSequenceClassification"):
            DistillationTrainer(student(), arguments, distiller=wrong)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(shapeshift.ConfigError, match=r"lacks 6 parameters .* connectors\.0\.conv\.weight"):
        DistillationTrainer(model, arguments, distiller=distiller, optimizers=(optimizer, None))
    both = torch.optim.SGD(nn.ModuleList([model, distiller]).parameters(), 0.1)
    DistillationTrainer(model, arguments, distiller=distiller, optimizers=(both, None)).create_optimizer()
    assert len(both.param_groups) == 1
    monkeypatch.setattr(arguments, "_n_gpu", 2)
    with pytest.raises(shapeshift.ConfigError, match="accelerate launch"):
        DistillationTrainer(model, arguments, distiller=distiller)


def test_a_checkpoint_of_another_distiller_is_refused(tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 2}
    trainer(tmp_path, *build("srrl"), **options).train()
    folder = tmp_path / "checkpoint-2"
    model, distiller = build("ofd")
    before = parameters(model, distiller)
    with pytest.raises(shapeshift.CheckpointError, match="made with another distiller"):
        trainer(tmp_path, model, distiller, **options).train(resume_from_checkpoint=str(folder))
    (folder / "distiller.safetensors").unlink()
    with pytest.raises(shapeshift.CheckpointError, match="cannot be read"):
        trainer(tmp_path, model, distiller, **options).train(resume_from_checkpoint=str(folder))
    assert_close(parameters(model, distiller), before, "identical")


def train_in_processes(folder: Path) -> None:
    for method in ("kd", "srrl"):
        model, distiller = build(method, "50%")
        if method == "srrl":  # a start of its own in each process
            torch.manual_seed(dist.get_rank())
            nn.init.normal_(distiller.connector.conv.weight)
        training = trainer(folder, model, distiller, per_device_train_batch_size=BATCH // WORLD)
        training.train()
        torch.save((parameters(model), parameters(distiller)), folder / f"{method}{training.args.process_index}.pt")


@needs_gloo
def test_two_processes_train_as_one_with_the_joint_batch(tmp_path: Path) -> None:
    model, distiller = build("kd", "50%")
    trainer(tmp_path, model, distiller).train()
    launch(train_in_processes, tmp_path)
    joint, *_ = (torch.load(tmp_path / f"kd{rank}.pt") for rank in range(WORLD))
    assert_close(joint[0], parameters(model), "reordered")
    first, second = (torch.load(tmp_path / f"srrl{rank}.pt") for rank in range(WORLD))
    assert_close(first, second, "identical")
    assert len(first[1]) == len(parameters(build("srrl")[1]))


def test_losses_of_a_weighted_sum_fall(tmp_path: Path) -> None:
    model, distiller = build("srrl")
    both = WeightedSum([(0.5, distiller), (1.0, KD(distiller.teacher, model))])
    options = {"optim": "adamw_torch", "learning_rate": 1e-2, "num_train_epochs": 15, "logging_steps": 4}
    training = trainer(tmp_path, model, both, **options)
    training.train()
    losses = [entry["loss"] for entry in training.state.log_history if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]
