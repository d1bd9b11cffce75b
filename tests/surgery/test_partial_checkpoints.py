"""Other libraries save a model by the names of its plain weights: a compressed one is saved whole, or refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import timm
import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import nn

import shapeshift
import shapeshift.integrations.transformers
from shapeshift.errors import ModelError
from tests.integrations.test_transformers import gpt2, lora, trained, words
from tests.processes import run_python
from tests.tolerances import assert_close


class Hub(nn.Module, PyTorchModelHubMixin):
    """A model that huggingface_hub saves."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)


class Own(Hub):
    """A model whose method of that name saves it whole."""

    def save_pretrained(self, folder: Path) -> None:  # type: ignore[override]
        shapeshift.save(self, folder)


class Outer(nn.Module, PyTorchModelHubMixin):
    """A model of which only a part is compressed."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.inner = shapeshift.compress(Hub(width), "50%")


def hub() -> Any:
    return shapeshift.compress(Hub(), "50%")


def save_timm(folder: Path) -> None:
    timm.models.save_for_hf(shapeshift.compress(timm.create_model("test_resnet"), "50%"), folder)


SAVED: dict[str, Callable[[Path], Any]] = {
    "huggingface_hub": lambda folder: hub().save_pretrained(folder),
    "a part": lambda folder: Outer().save_pretrained(folder),
    "timm": save_timm,
}


@pytest.mark.parametrize("client", SAVED)
def test_a_checkpoint_that_would_lack_weights_is_refused(client: str, tmp_path: Path) -> None:
    refused = r"weight is generated .* Call shapeshift\.save\(model, folder\)"
    if client == "huggingface_hub":
        refused = r"would build a plain model and leave its weights random.* use shapeshift\.save\(model, directory\)"
    with pytest.raises(ModelError, match=refused):
        SAVED[client](tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_method_that_saves_all_of_it_may(tmp_path: Path) -> None:
    model = shapeshift.compress(Own(), "50%")
    model.save_pretrained(tmp_path)
    assert_close(dict(shapeshift.load(tmp_path, Own()).state_dict()), dict(model.state_dict()), "identical")


def test_adapters_beside_generated_weights_are_saved(tmp_path: Path) -> None:
    base = shapeshift.compress(gpt2(), "50%").eval()
    model = trained(peft.get_peft_model(base, lora()))
    model.save_pretrained(tmp_path)
    tokens = words()[0]
    expected = model(tokens).logits
    loaded = peft.PeftModel.from_pretrained(model.unload(), tmp_path).eval()
    assert_close(loaded(tokens).logits, expected, "identical")


def test_what_is_materialized_is_saved(tmp_path: Path) -> None:
    model = trained(shapeshift.compress(peft.get_peft_model(gpt2(), lora()), "60%"))
    tokens = words()[0]
    shapeshift.materialize(model).save_pretrained(tmp_path)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora" in name)
    expected = model(tokens).logits
    assert_close(peft.PeftModel.from_pretrained(model.unload(), tmp_path).eval()(tokens).logits, expected, "identical")
    net = shapeshift.materialize(hub())
    net.save_pretrained(tmp_path / "hub")
    assert_close(dict(Hub.from_pretrained(tmp_path / "hub").state_dict()), dict(net.state_dict()), "identical")


def test_a_given_state_dict_is_saved_with_the_recipe(tmp_path: Path) -> None:
    model = shapeshift.compress(gpt2(), "50%").eval()
    model.save_pretrained(tmp_path, state_dict={name: value.clone() for name, value in model.state_dict().items()})
    tokens = words()[0]
    assert_close(type(model).from_pretrained(tmp_path).eval()(tokens).logits, model(tokens).logits, "identical")


def test_a_state_dict_is_taken_as_ever() -> None:
    model = hub()
    assert set(model.state_dict()) >= {"shapeshift.all.store.0", "first.bias"}
    torch.testing.assert_close(Outer().state_dict().keys() >= {"inner.shapeshift.all.store.0"}, True)


WITHOUT_THE_IMPORT = """
import sys
import transformers
import shapeshift

config = transformers.GPT2Config(vocab_size=48, n_positions=24, n_embd=16, n_layer=2, n_head=2)
for part in ("", "transformer"):
    model = transformers.GPT2LMHeadModel(config)
    shapeshift.compress(model.get_submodule(part), "60%", exclude=["*wte"])
    cases = [(saved, None) for saved in (model, model.transformer)]
    for saved, state in [*cases, (model.get_submodule(part), model.get_submodule(part).state_dict())]:
        try:
            saved.save_pretrained(sys.argv[1], state_dict=state)
        except shapeshift.ModelError as error:
            assert "after `import shapeshift.integrations.transformers`" in str(error), error
        else:
            raise AssertionError("saved without its recipe")
assert "shapeshift.integrations.transformers" not in sys.modules
"""


def test_transformers_does_not_save_without_the_import(tmp_path: Path) -> None:
    run_python(["-c", WITHOUT_THE_IMPORT, str(tmp_path)])
    assert not list(tmp_path.rglob("*.safetensors"))
