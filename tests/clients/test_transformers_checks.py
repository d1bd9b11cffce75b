"""The checks that transformers runs on each of its models, on models that are compressed after they are built."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

import shapeshift
import shapeshift.integrations.transformers
from shapeshift.surgery.attached import original_class
from tests.clients.suite import Check, table
from tests.integrations.test_transformers import AUTO, trained
from tests.models import Case
from tests.tolerances import assert_close


def mamba() -> Any:
    config = transformers.MambaConfig(
        vocab_size=48, hidden_size=16, num_hidden_layers=2, state_size=4, use_mambapy=False
    )
    return transformers.MambaForCausalLM(config)


def whisper() -> Any:
    config = transformers.WhisperConfig(
        vocab_size=48,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_mel_bins=8,
        max_source_positions=10,
        max_target_positions=12,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    return transformers.WhisperForConditionalGeneration(config)


MODELS = {
    **{name: case for name, (case, _) in AUTO.items()},
    "mamba": Case(mamba, lambda: (torch.randint(3, 48, (2, 7)),)),
    "whisper": Case(whisper, lambda: (torch.randn(2, 8, 20), None, torch.randint(3, 48, (2, 7)))),
}


def run(model: Any, inputs: Any, **options: Any) -> Any:
    """Return the output of a model in evaluation mode."""
    names = [model.main_input_name, "attention_mask", "decoder_input_ids"]
    given = {name: value for name, value in zip(names, inputs, strict=False) if value is not None}
    with torch.no_grad():
        return model.eval()(**given, **options)


def reloaded(model: Any, folder: Path, kind: Any = None, **options: Any) -> tuple[Any, dict[str, Any]]:
    model.save_pretrained(folder)
    found: tuple[Any, dict[str, Any]] = (kind or original_class(model)).from_pretrained(
        folder, output_loading_info=True, **options
    )
    return found


def nothing_is_missing(info: dict[str, Any]) -> bool:
    return not any(info.values())


def save_load(model: Any, inputs: Any, folder: Path) -> None:
    again, info = reloaded(model, folder)
    assert nothing_is_missing(info)
    assert_close(run(again, inputs)[0], run(model, inputs)[0], "identical")


def tied_weights_keys(model: Any, inputs: Any, folder: Path) -> None:
    again, _ = reloaded(model, folder)
    for found in (model, again):
        ties = found.get_expanded_tied_weights_keys(all_submodels=True)
        assert ties == found.all_tied_weights_keys
        for target, source in ties.items():
            values = [_read(found, name) for name in (target, source)]
            assert values[0].equal(values[1])


def _read(model: nn.Module, name: str) -> Tensor:
    path, _, attribute = name.rpartition(".")
    value: Tensor = getattr(model.get_submodule(path), attribute)
    return value


def all_tensors_are_parameter_or_buffer(model: Any, inputs: Any, folder: Path) -> None:
    run(model, inputs)
    for found in (model, reloaded(model, folder)[0]):
        known = {id(tensor) for tensor in (*found.parameters(), *found.buffers())}
        loose = [
            f"{path}.{name}"
            for path, module in found.named_modules()
            for name, value in vars(module).items()
            if isinstance(value, Tensor) and id(value) not in known
        ]
        assert loose == []


def resize_tokens_embeddings(model: Any, inputs: Any, folder: Path) -> None:
    model.resize_token_embeddings(60, mean_resizing=False)
    assert model.get_input_embeddings().weight.shape[0] == 60
    run(model, inputs)


def model_get_set_embeddings(model: Any, inputs: Any, folder: Path) -> None:
    shape = model.get_input_embeddings().weight.shape
    model.set_input_embeddings(nn.Embedding(*shape))
    run(model, inputs)


def correct_missing_keys(model: Any, inputs: Any, folder: Path) -> None:
    """A base model that is loaded from a model with a head, and the other way round."""
    base, info = reloaded(model, folder / "head", type(model.base_model))
    assert not [name for name in info["missing_keys"] if "pooler" not in name]
    again, info = reloaded(base, folder / "base", original_class(model))
    prefix = f"{model.base_model_prefix}."
    assert not [name for name in info["missing_keys"] if name.startswith(prefix)]
    expected = as_plain(model).base_model.state_dict()
    assert_close(dict(as_plain(again).base_model.state_dict()), dict(expected), "identical")


def as_plain(model: Any) -> Any:
    return shapeshift.materialize(copy.deepcopy(model)) if shapeshift.is_compressed(model) else model


def load_with_mismatched_shapes(model: Any, inputs: Any, folder: Path) -> None:
    sizes = {"num_labels": 9} if hasattr(model, "classifier") else {"vocab_size": 60}
    again, info = reloaded(model, folder, ignore_mismatched_sizes=True, **sizes)
    assert info["mismatched_keys"]
    run(again, inputs)


def init_weights_changes_nothing(model: Any, inputs: Any, folder: Path) -> None:
    before = run(model, inputs)[0]
    model.init_weights()
    model.tie_weights()
    assert_close(run(model, inputs)[0], before, "identical")


def from_pretrained_no_checkpoint(model: Any, inputs: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    config = transformers.AutoConfig.from_pretrained(folder)
    again = original_class(model).from_pretrained(None, config=config, state_dict=model.state_dict())
    assert_close(run(again, inputs)[0], run(model, inputs)[0], "identical")


def model_outputs_equivalence(model: Any, inputs: Any, folder: Path) -> None:
    assert_close(run(model, inputs, return_dict=False)[0], run(model, inputs)[0], "identical")


def inputs_embeds(model: Any, inputs: Any, folder: Path) -> None:
    embeds = model.get_input_embeddings()(inputs[0])
    options = {"decoder_input_ids": inputs[2]} if len(inputs) > 2 else {}
    with torch.no_grad():
        assert_close(model(inputs_embeds=embeds, **options)[0], run(model, inputs)[0], "reordered")


def training(model: Any, inputs: Any, folder: Path) -> None:
    labels = torch.randint(3, 5, inputs[-1].shape[:1] if inputs[0].dim() == 4 else inputs[-1].shape)
    names = [model.main_input_name, "attention_mask", "decoder_input_ids"]
    given = {name: value for name, value in zip(names, inputs, strict=False) if value is not None}
    given.pop("decoder_input_ids", None)
    model.train()(**given, labels=labels).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def in_bfloat16(model: Any, inputs: Any, folder: Path) -> None:
    again, _ = reloaded(model, folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in again.parameters()} == {torch.bfloat16}


def copied(model: Any, inputs: Any, folder: Path) -> None:
    assert_close(run(copy.deepcopy(model), inputs)[0], run(model, inputs)[0], "identical")


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        save_load,
        tied_weights_keys,
        all_tensors_are_parameter_or_buffer,
        resize_tokens_embeddings,
        model_get_set_embeddings,
        correct_missing_keys,
        load_with_mismatched_shapes,
        init_weights_changes_nothing,
        from_pretrained_no_checkpoint,
        model_outputs_equivalence,
        inputs_embeds,
        training,
        in_bfloat16,
        copied,
    )
}

# Checks that a compressed model refuses.
EXPECTED = {
    ("resize_tokens_embeddings", "*"): "the embedding is generated: resize before compress, or exclude it",
    ("model_get_set_embeddings", "*"): "the embedding is generated: replace before compress, or exclude it",
}

# Checks for what a model does not have.
SKIPPED = {
    *(
        (check, name)
        for check in ("resize_tokens_embeddings", "inputs_embeds", "model_get_set_embeddings")
        for name in ("vit",)
    ),
    ("resize_tokens_embeddings", "whisper"),
    ("inputs_embeds", "whisper"),
}


@table(CHECKS, MODELS, EXPECTED, SKIPPED)
def test_as_a_plain_model(check: Check, build: Case, form: Any, tmp_path: Path) -> None:
    check(trained(form(build.build())), build.inputs(), tmp_path)
