"""Loops that learn from preferences and rewards, as TRL writes them, on compressed adapters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import shapeshift
import shapeshift.integrations.peft
from shapeshift.errors import ShapeshiftWarning
from shapeshift.generators.base import WeightGenerator
from shapeshift.surgery.roots import require_shared
from tests.integrations.test_peft_adapters import METHODS, RANK, TOKENS, llama, logits
from tests.integrations.test_peft_adapters import trained as after_steps
from tests.tolerances import assert_close

CHOSEN, REJECTED = TOKENS, TOKENS.flip(1)
GROUP = {"mapping": {"*": "lora_all"}}  # the names of its parameters have the prefix by which loops skip adapters

EACH = pytest.mark.parametrize("method", ["lora", "dora", "loha", "oft"])


def compressed(method: str = "lora", base: Any = None, **options: Any) -> Any:
    base = llama() if base is None else base
    torch.manual_seed(1)
    model = peft.get_peft_model(base, METHODS[method]())
    return shapeshift.compress(model, "60%", seed=0, **options)


def dense(model: Any) -> Any:
    """Return the plain adapter of the same weights."""
    return shapeshift.materialize(copy.deepcopy(model))


def log_probs(model: Any, tokens: Tensor) -> Tensor:
    """Return the sum of the log-probabilities of each sequence."""
    found = model(input_ids=tokens).logits[:, :-1].float().log_softmax(-1)
    return found.gather(-1, tokens[:, 1:, None]).sum((1, 2))  # type: ignore[no-any-return]


@contextmanager
def adapter(model: Any, name: str) -> Iterator[None]:
    model.set_adapter(name)
    yield
    model.set_adapter("default")


# The ways to get at the reference model.
REFERENCES: dict[str, Callable[[Any], Any]] = {
    "disabled": lambda model: model.disable_adapter(),
    "second": lambda model: adapter(model, "reference"),
}


def preference_loss(model: Any, reference: Callable[[Any], Any]) -> Tensor:
    """Return the loss of direct preference optimization; the reference runs between the forward and backward pass."""
    policy = log_probs(model, CHOSEN) - log_probs(model, REJECTED)
    with torch.no_grad(), reference(model):
        base = log_probs(model, CHOSEN) - log_probs(model, REJECTED)
    return -F.logsigmoid(0.5 * (policy - base)).mean()


def parameters(model: Any) -> list[nn.Parameter]:
    return [found for found in model.parameters() if found.requires_grad]


def steps(
    model: Any, loss: Callable[[Any], Tensor], between: Callable[[Any], object] = lambda model: None
) -> list[Tensor]:
    """Train for three steps with something between them; return the losses."""
    optimizer = torch.optim.Adam(parameters(model), lr=0.01)
    losses = []
    for _ in range(3):
        between(model)
        optimizer.zero_grad()
        value = loss(model)
        value.backward()
        optimizer.step()
        losses.append(value.detach())
    return losses


def likelihood(model: Any) -> Tensor:
    return -log_probs(model, TOKENS).mean()


def add_reference(model: Any) -> Any:
    """Load a copy of the adapter beside it."""
    state = peft.get_peft_model_state_dict(model)
    model.add_adapter("reference", copy.deepcopy(model.peft_config["default"]))
    peft.set_peft_model_state_dict(model, {name: tensor.clone() for name, tensor in state.items()}, "reference")
    model.set_adapter("default")
    return model


class TestReferences:
    @EACH
    def test_a_disabled_adapter_is_the_base_model_and_then_intact(self, method: str) -> None:
        model = after_steps(compressed(method))
        before, state = log_probs(model, TOKENS), copy.deepcopy(model.state_dict())
        flags = [found.requires_grad for found in model.parameters()]
        with torch.no_grad(), model.disable_adapter():
            reference = log_probs(model, TOKENS)
        assert_close(reference, log_probs(llama(), TOKENS).detach(), "identical")
        assert_close(log_probs(model, TOKENS), before, "identical")
        assert_close(model.state_dict(), state, "identical")
        assert flags == [found.requires_grad for found in model.parameters()]

    @pytest.mark.parametrize("method", ["lora", "loha", "oft"])
    def test_the_ratio_of_an_untrained_policy_is_one(self, method: str) -> None:
        model = compressed(method)
        with torch.no_grad(), model.disable_adapter():
            reference = log_probs(model, TOKENS)
        assert_close((log_probs(model, TOKENS) - reference).exp().detach(), torch.ones(len(TOKENS)), "identical")
        assert_close(preference_loss(model, REFERENCES["disabled"]).detach(), torch.tensor(2.0).log(), "identical")

    @EACH
    @pytest.mark.parametrize("way", REFERENCES)
    def test_gradients_are_those_of_an_adapter_trained_alone(self, way: str, method: str) -> None:
        model = after_steps(compressed(method)).train()
        alone = copy.deepcopy(model)
        if way == "second":
            add_reference(model)
            with torch.no_grad():
                base = log_probs(alone, CHOSEN) - log_probs(alone, REJECTED)
        else:
            base = (log_probs(llama(), CHOSEN) - log_probs(llama(), REJECTED)).detach()
        policy = log_probs(alone, CHOSEN) - log_probs(alone, REJECTED)
        expected = torch.autograd.grad(-F.logsigmoid(0.5 * (policy - base)).mean(), parameters(alone))
        model.zero_grad()
        preference_loss(model, REFERENCES[way]).backward()
        assert_close([found.grad for found in parameters(model)], list(expected), "reordered gradient")

    def test_a_second_adapter_stays_as_it_was_while_the_first_trains(self) -> None:
        model = add_reference(after_steps(compressed()))
        with torch.no_grad(), adapter(model, "reference"):
            before = log_probs(model, TOKENS)
        first = log_probs(model, TOKENS)
        losses = steps(model, lambda model: preference_loss(model, REFERENCES["second"]))
        assert losses[-1] < losses[0]
        with torch.no_grad(), adapter(model, "reference"):
            assert_close(log_probs(model, TOKENS), before, "identical")
        assert (log_probs(model, TOKENS) - first).abs().max() > 1e-3

    def test_the_copy_that_is_loaded_from_the_file(self, tmp_path: Path) -> None:
        model = after_steps(compressed())
        expected = log_probs(model, TOKENS).detach()
        model.save_pretrained(tmp_path)
        loaded = peft.PeftModel.from_pretrained(llama(), tmp_path, adapter_name="policy", is_trainable=True)
        loaded.load_adapter(tmp_path, adapter_name="reference")
        trains = {name for name, parameter in loaded.named_parameters() if parameter.requires_grad}
        steps(loaded, likelihood)
        assert trains == {name for name, parameter in loaded.named_parameters() if parameter.requires_grad}
        assert (log_probs(loaded, TOKENS) - expected).abs().max() > 1e-3
        loaded.set_adapter("reference")
        assert_close(log_probs(loaded, TOKENS).detach(), expected, "identical")

    def test_one_that_is_to_be_copied_by_names_is_warned_of(self) -> None:
        model = after_steps(compressed())
        expected = logits(model)
        with pytest.warns(ShapeshiftWarning, match=r"ref .* not a copy of default.*set_peft_model_state_dict"):
            model.add_adapter("ref", model.peft_config["default"])
        peft.set_peft_model_state_dict(model, peft.get_peft_model_state_dict(model), "ref")
        model.set_adapter("ref")
        assert_close(logits(model), expected, "identical")

    def test_losses_fall_as_those_of_the_plain_adapter(self) -> None:
        model = compressed()
        plain = dense(model)
        for found in (model, plain):
            losses = steps(found, lambda model: preference_loss(model, REFERENCES["disabled"]))
            assert losses[0] > losses[1] > losses[2]

    def test_a_frozen_copy_of_the_model_is_a_reference(self) -> None:
        model = after_steps(compressed())
        frozen = copy.deepcopy(model).requires_grad_(False).eval()
        before = log_probs(frozen, TOKENS)
        assert_close(before, log_probs(model, TOKENS).detach(), "identical")
        steps(model, likelihood)
        assert_close(log_probs(frozen, TOKENS), before, "identical")


class TestSwitching:
    """Loops switch adapters in each step, so that it has to cost next to nothing."""

    @pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
    @pytest.mark.parametrize("method", METHODS)
    def test_generates_no_weight_and_trains_the_active_adapter(
        self, method: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = compressed(method)
        if method == "target_parameters":
            model.set_adapter("default")  # PEFT has one adapter on such layers
        else:
            add_reference(model)
        plain = dense(model)

        def generate(*_: Any) -> Any:
            raise AssertionError("a weight was generated")

        monkeypatch.setattr(WeightGenerator, "generate", generate)
        for name in reversed(model.peft_config):
            for switch in (
                lambda found: found.set_adapter(name),  # noqa: B023
                lambda found: found.set_requires_grad(name, False),  # noqa: B023
                lambda found: found.set_adapter(name, inference_mode=True),  # noqa: B023
                lambda found: found.set_adapter(name),  # noqa: B023
            ):
                for found in (model, plain):
                    switch(found)
                assert shapeshift.is_compressed(model)
                expected = any(found.requires_grad for found in plain.parameters())
                assert any(found.requires_grad for found in model.parameters()) == expected
                for weight in require_shared(model).plan.weights:
                    there = plain.get_parameter(weight.names[0])
                    assert _lazy(model, weight.names[0]).requires_grad == there.requires_grad, weight.names

    def test_takes_a_merged_adapter_off_first(self) -> None:
        model = add_reference(after_steps(compressed()))
        expected = logits(model)
        model.merge_adapter()
        with pytest.warns(UserWarning, match="Unmerging the model first"):
            model.set_adapter("reference")
        assert_close(logits(model), expected, "reordered")
        with model.disable_adapter():
            assert_close(logits(model), logits(llama()), "reordered")

    def test_leaves_the_model_as_it_was_if_it_fails(self) -> None:
        model = after_steps(compressed())
        expected = logits(model)
        for name in ("nowhere", None):
            with pytest.raises((ValueError, TypeError)):
                model.set_adapter(name)
        assert_close(logits(model), expected, "identical")
        assert shapeshift.is_compressed(model)


def _lazy(model: nn.Module, name: str) -> Tensor:
    path, _, parameter = name.rpartition(".")
    found: Tensor = getattr(model.get_submodule(path), parameter)
    return found


class TestMerging:
    @staticmethod
    def merged_weights(model: Any) -> dict[str, Tensor]:
        """Merge, read the weights under their names in the base model as loops send them to a server, and unmerge."""
        model.merge_adapter()
        found = {}
        for name, parameter in model.named_parameters():
            name = name.removeprefix("base_model.model.").replace(".base_layer", "")
            if model.prefix not in name and "original_module" not in name:
                found[name] = parameter.detach().clone()
        model.unmerge_adapter()
        return found

    @pytest.mark.parametrize("method", ["lora", "dora"])
    def test_the_merged_weights_make_the_base_model_the_adapted_one(self, method: str) -> None:
        model = after_steps(compressed(method, **GROUP))
        expected = logits(model)
        server = llama()
        server.load_state_dict({**server.state_dict(), **self.merged_weights(model)})
        assert self.merged_weights(model).keys() == dict(llama().named_parameters()).keys()
        assert_close(logits(server), expected, "reordered")
        assert_close(logits(model), expected, "reordered")

    @EACH
    def test_training_goes_on_as_without_it(self, method: str) -> None:
        model = compressed(method)
        other = copy.deepcopy(model)
        expected = steps(model, likelihood)
        assert_close(steps(other, likelihood, between=self.merged_weights), expected, "reordered")
        assert_close(other.state_dict(), model.state_dict(), "reordered")

    def test_of_a_second_adapter(self) -> None:
        model = add_reference(after_steps(compressed()))
        steps(model, likelihood)
        expected = logits(model)
        with adapter(model, "reference"):
            reference = logits(model)
            model.merge_adapter()
            assert_close(logits(model), reference, "reordered")
            model.unmerge_adapter()
        assert_close(logits(model), expected, "reordered")


class TestPrecisionAndMemory:
    @pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
    @pytest.mark.parametrize("use_reentrant", [False, True])
    @pytest.mark.parametrize("prepare", ["by hand", "for kbit training"])
    def test_gradient_checkpointing_keeps_the_gradients(self, prepare: str, use_reentrant: bool) -> None:
        expected = compressed()
        likelihood(expected).backward()
        options = {"use_reentrant": use_reentrant}
        if prepare == "by hand":
            model = compressed()
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable(options)
        else:
            base = llama()
            base.is_loaded_in_8bit = True  # without which nothing is checkpointed
            base = peft.prepare_model_for_kbit_training(base, gradient_checkpointing_kwargs=options)
            model = compressed(base=base)
        model.train()
        likelihood(model).backward()
        assert model.is_gradient_checkpointing
        grads = [found.grad for found in parameters(model)]
        assert_close(grads, [found.grad for found in parameters(expected)], "reordered gradient")

    @pytest.mark.parametrize("way", REFERENCES)
    def test_autocast(self, way: str) -> None:
        model = add_reference(after_steps(compressed()))
        plain = dense(model)
        found = []
        for each in (model, plain):
            with torch.autocast("cpu", torch.bfloat16):
                loss = preference_loss(each, REFERENCES[way])
            loss.backward()
            found.append(loss.detach())
        assert_close(found[0], found[1], "half")
        assert all(found.grad.isfinite().all() and found.dtype == torch.float32 for found in parameters(model))

    @pytest.mark.parametrize("autocast_adapter_dtype", [False, True])
    def test_a_base_of_half_precision(self, autocast_adapter_dtype: bool) -> None:
        torch.manual_seed(1)
        config = peft.LoraConfig(**RANK)
        model = peft.get_peft_model(llama().bfloat16(), config, autocast_adapter_dtype=autocast_adapter_dtype)
        shapeshift.compress(model, "60%", seed=0)
        with torch.no_grad(), model.disable_adapter():
            reference = log_probs(model, TOKENS)
        assert_close(log_probs(model, TOKENS).detach(), reference, "identical")
        losses = steps(model, lambda model: preference_loss(model, REFERENCES["disabled"]))
        assert losses[-1] < losses[0]


class TestGeneration:
    @staticmethod
    def generated(model: Any, **options: Any) -> Tensor:
        """Generate in the middle of a loop, as loops that learn from rewards do."""
        was_training = model.training
        model.eval()
        chosen: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, **options}
        with torch.no_grad():
            found: Tensor = model.generate(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS), **chosen)
        model.train(was_training)
        return found

    @EACH
    def test_is_that_of_the_plain_adapter_and_leaves_training_as_it_was(self, method: str) -> None:
        model = compressed(method).train()
        other = copy.deepcopy(model)
        expected = steps(model, likelihood)
        assert_close(steps(other, likelihood, between=self.generated), expected, "identical")
        assert_close(other.state_dict(), model.state_dict(), "identical")
        assert model.training
        assert self.generated(model).equal(self.generated(dense(model)))
        with model.disable_adapter():
            assert self.generated(model).equal(self.generated(llama()))

    def test_a_policy_gradient_of_what_was_generated(self) -> None:
        model = compressed().train()
        plain = dense(model)
        found = []
        for each in (model, plain):
            torch.manual_seed(2)
            tokens = self.generated(each, do_sample=True)
            old = log_probs(each, tokens).detach()
            ratio = (log_probs(each, tokens) - old).exp()
            assert_close(ratio.detach(), torch.ones(len(tokens)), "identical")
            advantages = (tokens[:, TOKENS.shape[1] :] < 20).float().mean(1) - 0.5
            loss = -(ratio * advantages).mean()
            loss.backward()
            found.append((tokens, loss.detach()))
            assert all(parameter.grad.isfinite().all() for parameter in parameters(each))
        assert found[0][0].equal(found[1][0])
        assert_close(found[0][1], found[1][1], "reordered")

    def test_a_model_with_a_value_head(self) -> None:
        class WithValues(nn.Module):
            def __init__(self, policy: Any) -> None:
                super().__init__()
                self.policy, self.head = policy, nn.Linear(32, 1)

            def forward(self, tokens: Tensor) -> Tensor:
                found = self.policy(input_ids=tokens, output_hidden_states=True)
                return found.logits.square().mean() + self.head(found.hidden_states[-1]).square().mean()  # type: ignore[no-any-return]

        model = WithValues(compressed())
        trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trains - {name for name in trains if name.startswith("policy.shapeshift.")} == {
            "head.weight",
            "head.bias",
        }
        losses = steps(model, lambda model: model(TOKENS))
        assert losses[-1] < losses[0]
