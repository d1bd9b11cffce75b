"""Compressed models in transformers' own ways: saved and loaded, trained by its Trainer, generated with, uploaded."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import accelerate
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

import shapeshift
from shapeshift.checkpoint.content import deflated, inflated
from shapeshift.errors import CheckpointError, ConfigError, GeneratedWeightError, ModelError
from shapeshift.generators import GENERATORS
from shapeshift.integrations.transformers import ShapeshiftConfig
from shapeshift.surgery.roots import require_shared
from shapeshift.upsamplers import UPSAMPLERS
from shapeshift.upsamplers.base import Upsampler
from tests.methods import compressed, every_method
from tests.models import Case, tensors
from tests.processes import WORLD, launch, needs_gloo, run_python
from tests.tolerances import assert_close

AutoCausal = transformers.AutoModelForCausalLM


def bert(head: str = "MaskedLM", **options: Any) -> Any:
    config = transformers.BertConfig(
        vocab_size=48,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        **options,
    )
    return getattr(transformers, f"BertFor{head}" if head else "BertModel")(config)


def gpt2(**options: Any) -> Any:
    """A model of transposed linear layers under a tied head."""
    config = transformers.GPT2Config(
        vocab_size=48, n_positions=24, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0, **options
    )
    return transformers.GPT2LMHeadModel(config)


def llama() -> Any:
    """A model whose head is not tied, with rotary frequencies that no checkpoint holds."""
    config = transformers.LlamaConfig(
        vocab_size=48, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    return transformers.LlamaForCausalLM(config)


def t5() -> Any:
    """An encoder and a decoder that share their embedding with the head."""
    config = transformers.T5Config(
        vocab_size=48, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config)


def vit() -> Any:
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=8,
        num_labels=5,
    )
    return transformers.ViTForImageClassification(config)


def mixtral() -> Any:
    """A model whose experts transformers stores apart, and stacks when it loads them."""
    config = transformers.MixtralConfig(
        vocab_size=48,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=2,
    )
    return transformers.MixtralForCausalLM(config)


def words() -> tuple[Tensor]:
    return (torch.randint(3, 48, (2, 7)),)


def pairs() -> tuple[Tensor, None, Tensor]:
    return (*words(), None, *words())


AUTO = {
    "bert": (Case(bert, words), transformers.AutoModelForMaskedLM),
    "gpt2": (Case(gpt2, words), AutoCausal),
    "llama": (Case(llama, words), AutoCausal),
    "t5": (Case(t5, pairs), transformers.AutoModelForSeq2SeqLM),
    "vit": (Case(vit, lambda: (torch.randn(2, 3, 16, 16),)), transformers.AutoModelForImageClassification),
    "mixtral": (Case(mixtral, words), AutoCausal),
}
every_model = pytest.mark.parametrize("name", AUTO)


def trained(model: Any) -> Any:
    """Move every parameter away from where it started, as training does."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


def logits(model: Any, inputs: tuple[Any, ...]) -> list[Tensor]:
    names = ("pixel_values",) if inputs[0].is_floating_point() else ("input_ids", "attention_mask", "decoder_input_ids")
    with torch.no_grad():
        return tensors(model(**dict(zip(names, inputs, strict=False))).logits)


def config_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


def edit_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = config_of(folder)
    change(content)
    (folder / "config.json").write_text(json.dumps(content))


def assert_plain(model: Any) -> None:
    """Assert that nothing about a model tells that it was loaded by a quantizer, or written with a recipe."""
    traces = ("hf_quantizer", "is_quantized", "quantization_method")
    assert [name for name in traces if hasattr(model, name)] == []
    traces = ("quantization_config", "_is_quantized", "transformers_weights", "to_json_file")
    assert [name for name in traces if name in vars(model.config)] == []


class TestSaving:
    @pytest.mark.parametrize("mapping", ["single", "shape"])
    @every_model
    def test_what_is_saved_is_loaded(self, name: str, mapping: str, tmp_path: Path) -> None:
        case, auto = AUTO[name]
        model, inputs = case.build(), case.inputs()
        kind, keys = type(model), list(model.state_dict())
        trained(shapeshift.compress(model, "50%", mapping=mapping))
        model.save_pretrained(tmp_path)
        assert_plain(model)
        loaded, info = auto.from_pretrained(tmp_path, output_loading_info=True)
        assert {key: len(found) for key, found in info.items()} == dict.fromkeys(info, 0)
        assert isinstance(loaded, kind)
        assert not loaded.training
        assert_plain(loaded)
        assert_close(logits(loaded, inputs), logits(model, inputs), "identical")
        assert_close(dict(loaded.state_dict()), dict(model.state_dict()), "identical")
        assert shapeshift.count_parameters(loaded) == shapeshift.count_parameters(model)
        loaded.tie_weights()
        assert_close(logits(loaded, inputs), logits(model, inputs), "identical")

        # A materialized model is any other, in memory and on disk.
        expected = logits(model, inputs)
        shapeshift.materialize(loaded).save_pretrained(tmp_path)
        assert_plain(loaded)
        assert list(loaded.state_dict()) == keys
        assert not {"quantization_config", "transformers_weights"} & set(config_of(tmp_path))
        again, info = auto.from_pretrained(tmp_path, output_loading_info=True)
        assert {key: len(found) for key, found in info.items()} == dict.fromkeys(info, 0)
        assert not shapeshift.is_compressed(again)
        assert_close(logits(again, inputs), expected, "identical")

    @pytest.mark.parametrize("budget", [0.5, 2.0])
    @every_method
    def test_by_every_method(self, options: dict[str, str], budget: float, tmp_path: Path) -> None:
        model, inputs = trained(compressed(gpt2(), budget, **options)), words()
        model.save_pretrained(tmp_path)
        # Copied: transformers maps the file into memory, where products of what is not aligned may round differently.
        loaded = copy.deepcopy(AutoCausal.from_pretrained(tmp_path))
        assert_close(logits(loaded, inputs), logits(model, inputs), "identical")
        assert_close(dict(loaded.state_dict()), dict(model.state_dict()), "identical")

    def test_the_checkpoint_is_as_small_as_the_budget(self, tmp_path: Path) -> None:
        sizes = {}
        for budget in (0.2, 0.4, 0.8):
            model = shapeshift.compress(bert(), budget)
            model.save_pretrained(tmp_path / str(budget))
            sizes[budget] = (tmp_path / str(budget) / "model.safetensors").stat().st_size
            kept = sum(tensor.numel() for tensor in load_file(tmp_path / str(budget) / "model.safetensors").values())
            gains = sum(buffer.numel() for buffer in require_shared(model).buffers())
            assert kept == shapeshift.count_parameters(model) + gains
        # What is left beside the numbers is a line per tensor, the same for all.
        assert sizes[0.8] - sizes[0.4] == pytest.approx(2 * (sizes[0.4] - sizes[0.2]), rel=0.05)

    def test_the_configuration_carries_what_save_writes(self, tmp_path: Path) -> None:
        model = shapeshift.compress(bert(), "50%")
        model.save_pretrained(tmp_path / "theirs")
        shapeshift.save(model, tmp_path / "ours")
        content = config_of(tmp_path / "theirs")
        ours = json.loads((tmp_path / "ours" / "shapeshift.json").read_text())
        del ours["sha256"]
        ours |= inflated(ours.pop("content"))
        del ours["tensors"]
        # The folder of `save` leaves out defaults, and some digits of starting values.
        theirs = content["quantization_config"]["recipe"]
        written = inflated(deflated(theirs))
        assert written["plan"].pop("errors") == {}
        assert written == ours
        assert content["quantization_config"] == {"quant_method": "shapeshift", "module": "", "recipe": theirs}
        assert content["architectures"] == ["BertForMaskedLM"]

    def test_a_configuration_that_is_shared_stays_the_others(self, tmp_path: Path) -> None:
        plain = gpt2()
        model = transformers.GPT2LMHeadModel(plain.config)
        shapeshift.compress(model, "50%").save_pretrained(tmp_path / "compressed")
        plain.save_pretrained(tmp_path / "plain")
        assert "quantization_config" not in config_of(tmp_path / "plain")
        assert not shapeshift.is_compressed(AutoCausal.from_pretrained(tmp_path / "plain"))
        assert shapeshift.is_compressed(AutoCausal.from_pretrained(tmp_path / "compressed"))

    def test_of_a_compressed_model_makes_plain_ones_too(self, tmp_path: Path) -> None:
        shapeshift.compress(gpt2(), "50%").save_pretrained(tmp_path)
        config = transformers.AutoConfig.from_pretrained(tmp_path)
        assert config.quantization_config["quant_method"] == "shapeshift"
        plain = AutoCausal.from_config(config)
        plain.save_pretrained(tmp_path / "plain")
        assert not {"quantization_config", "transformers_weights"} & set(config_of(tmp_path / "plain"))
        assert not shapeshift.is_compressed(AutoCausal.from_pretrained(tmp_path / "plain"))
        model, inputs = trained(shapeshift.compress(plain, "25%")), words()
        model.save_pretrained(tmp_path)
        assert_close(logits(AutoCausal.from_pretrained(tmp_path), inputs), logits(model, inputs), "identical")

    def test_in_shards(self, tmp_path: Path) -> None:
        model, inputs = trained(shapeshift.compress(bert(), "50%", mapping="shape")), words()
        model.save_pretrained(tmp_path, max_shard_size="4KB")
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
        assert not (tmp_path / "model.safetensors").exists()
        loaded = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path)
        assert_close(logits(loaded, inputs), logits(model, inputs), "identical")

    def test_copies_and_pickles_of_what_was_loaded(self, tmp_path: Path) -> None:
        shapeshift.compress(gpt2(), "50%").save_pretrained(tmp_path)
        model, inputs = AutoCausal.from_pretrained(tmp_path), words()
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert_close(logits(twin, inputs), logits(model, inputs), "identical")
            assert require_shared(twin) is not require_shared(model)
            twin.save_pretrained(tmp_path / "twin")
            assert_close(
                logits(AutoCausal.from_pretrained(tmp_path / "twin"), inputs), logits(model, inputs), "identical"
            )

    def test_frozen_parameters_stay_frozen(self, tmp_path: Path) -> None:
        model = gpt2()
        model.transformer.wpe.requires_grad_(False)
        shapeshift.compress(model, "60%").transformer.ln_f.requires_grad_(False)
        model.save_pretrained(tmp_path)
        loaded = AutoCausal.from_pretrained(tmp_path)
        frozen = {name for name, parameter in loaded.named_parameters() if not parameter.requires_grad}
        assert frozen == {"transformer.wpe.weight", "transformer.ln_f.weight", "transformer.ln_f.bias"}

    def test_a_pruned_model(self, tmp_path: Path) -> None:
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=5
        )
        images = torch.randn(2, 3, 32, 32)
        full = transformers.ResNetForImageClassification(config)
        model = shapeshift.prune.hrank(full, [images], 0.5, progress=False)
        assert shapeshift.count_parameters(model) < 0.8 * shapeshift.count_parameters(full)
        for kind in ("pruned", "pruned and compressed"):
            if kind != "pruned":
                shapeshift.compress(model, "50%")
            trained(model).save_pretrained(tmp_path / kind)
            loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / kind)
            assert_close(logits(loaded, (images,)), logits(model, (images,)), "identical")

    def test_buffers_of_an_upsampler_are_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Signs(Upsampler):
            """Repeat the numbers under signs that are drawn once."""

            signs: Tensor

            def __init__(self, size: int, shape: Any) -> None:
                super().__init__(size, shape)
                self.register_buffer("signs", torch.empty(self.shape))

            def reset_parameters(self, generator: torch.Generator | None) -> None:
                self.signs.copy_(torch.randint(2, self.shape, generator=generator) * 2 - 1)

            def forward(self, source: Tensor) -> Tensor:
                return (
                    source.repeat(-(-self.signs.numel() // self.size))[: self.signs.numel()].view_as(self.signs)
                    * self.signs
                )

        monkeypatch.setitem(UPSAMPLERS._entries, "signs", Signs)
        model, inputs = trained(shapeshift.compress(gpt2(), "12%", upsample="signs")), words()
        assert any("signs" in name for name, _ in model.named_buffers())
        model.save_pretrained(tmp_path)
        assert_close(logits(AutoCausal.from_pretrained(tmp_path), inputs), logits(model, inputs), "identical")

    def test_the_files_that_are_uploaded_are_a_checkpoint(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        uploaded: dict[str, bytes] = {}

        class Hub:
            """What transformers asks of the Hub when it uploads."""

            def create_repo(self, repo_id: str, **_: Any) -> Any:
                return type("Repo", (), {"repo_id": repo_id})()

            def create_commit(self, operations: list[Any], **_: Any) -> None:
                for operation in operations:
                    with operation.as_file() as file:
                        uploaded[operation.path_in_repo] = file.read()

        class Card:
            """What transformers asks of a model's card."""

            def save(self, file: str) -> None:
                Path(file).write_text("# A model")

        hub = sys.modules["transformers.utils.hub"]
        for module in (hub, sys.modules["transformers.modeling_utils"]):
            monkeypatch.setattr(module, "create_and_tag_model_card", lambda *args, **kwargs: Card())
            monkeypatch.setattr(module, "hf_api", Hub)
        model, inputs = trained(shapeshift.compress(gpt2(), "50%")), words()
        for upload in (
            lambda: model.push_to_hub("someone/model"),
            lambda: model.save_pretrained(tmp_path / "model", push_to_hub=True),
        ):
            uploaded.clear()
            upload()
            assert set(uploaded) == {"README.md", "config.json", "generation_config.json", "model.safetensors"}
            folder = tmp_path / "downloaded"
            folder.mkdir(exist_ok=True)
            for name, content in uploaded.items():
                (folder / name).write_bytes(content)
            assert_close(logits(AutoCausal.from_pretrained(folder), inputs), logits(model, inputs), "identical")


class TestTies:
    @pytest.mark.parametrize("excluded", [(), ("transformer.wte",)], ids=["generated", "excluded"])
    def test_of_embeddings_stay(self, excluded: tuple[str, ...], tmp_path: Path) -> None:
        trained(shapeshift.compress(gpt2(), "60%", exclude=excluded)).save_pretrained(tmp_path)
        model, inputs = AutoCausal.from_pretrained(tmp_path), words()
        assert model.lm_head.weight.equal(model.transformer.wte.weight)
        assert (model.lm_head.weight is model.transformer.wte.weight) == bool(excluded)
        model(*inputs, labels=inputs[0]).loss.backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
        assert model.lm_head.weight.equal(model.transformer.wte.weight)
        assert shapeshift.materialize(model).lm_head.weight is model.transformer.wte.weight

    def test_made_by_hand_are_in_the_recipe(self, tmp_path: Path) -> None:
        model, inputs = gpt2(), words()
        first, second = (block.mlp for block in model.transformer.h)
        second.c_fc.weight = first.c_fc.weight
        trained(shapeshift.compress(model, "50%")).save_pretrained(tmp_path)
        loaded = AutoCausal.from_pretrained(tmp_path)
        assert_close(logits(loaded, inputs), logits(model, inputs), "identical")
        first, second = (block.mlp for block in shapeshift.materialize(loaded).transformer.h)
        assert first.c_fc.weight is second.c_fc.weight

    def test_resizing_generated_embeddings_is_refused(self, tmp_path: Path) -> None:
        shapeshift.compress(gpt2(), "50%").save_pretrained(tmp_path)
        model = AutoCausal.from_pretrained(tmp_path)
        with pytest.raises(GeneratedWeightError, match=r"Call it before .* or after shapeshift\.materialize"):
            model.resize_token_embeddings(60)
        assert model.config.vocab_size == 48
        shapeshift.materialize(model).resize_token_embeddings(60, mean_resizing=False)
        shapeshift.compress(model, "50%").save_pretrained(tmp_path)
        assert AutoCausal.from_pretrained(tmp_path).lm_head.weight.shape == (60, 16)

    def test_are_listed_and_tied_again_without_a_change(self) -> None:
        plain = gpt2()
        model, inputs = shapeshift.compress(gpt2(), "50%").eval(), words()
        before = logits(model, inputs)
        for found in (model.get_expanded_tied_weights_keys(), model.get_expanded_tied_weights_keys(all_submodels=True)):
            assert found == plain.get_expanded_tied_weights_keys()
        for call in (model.tie_weights, model.init_weights, model.post_init):
            call()
            assert model.all_tied_weights_keys == plain.all_tied_weights_keys
        assert_close(logits(model, inputs), before, "identical")

    @pytest.mark.parametrize("method", ["set_input_embeddings", "set_output_embeddings"])
    def test_are_not_parted_by_new_embeddings(self, method: str) -> None:
        model = shapeshift.compress(gpt2(), "50%")
        before = model.get_submodule("transformer.wte"), model.get_submodule("lm_head")
        with pytest.raises(GeneratedWeightError, match=rf"{method}\(\) would replace an embedding that is generated"):
            getattr(model, method)(torch.nn.Embedding(60, 16))
        assert (model.get_submodule("transformer.wte"), model.get_submodule("lm_head")) == before
        kept = shapeshift.compress(gpt2(), "60%", exclude=["transformer.wte"])
        kept.set_input_embeddings(torch.nn.Embedding(48, 16))
        kept.tie_weights()
        assert kept.lm_head.weight is kept.transformer.wte.weight

    def test_that_were_parted_are_not_tied(self) -> None:
        model = shapeshift.compress(gpt2(), "50%")
        model.transformer.wte = torch.nn.Embedding(48, 16)
        with pytest.raises(GeneratedWeightError, match=r"lm_head\.weight and transformer\.wte\.weight cannot be tied"):
            model.tie_weights()

    def test_resizing_embeddings_that_are_kept_out_works(self, tmp_path: Path) -> None:
        model, inputs = shapeshift.compress(gpt2(), "60%", exclude=["transformer.wte"]).eval(), words()
        before = logits(model, inputs)[0]
        model.resize_token_embeddings(60, mean_resizing=False)
        assert model.lm_head.weight is model.transformer.wte.weight
        after = logits(model, inputs)[0]
        assert_close(after[..., :48], before, "reordered")
        model.save_pretrained(tmp_path)
        assert_close(logits(AutoCausal.from_pretrained(tmp_path), inputs)[0], after, "identical")


SIGNATURES = """
import inspect
import sys
import transformers

def described():
    kind = transformers.PreTrainedModel
    found = [(name, getattr(kind, name)) for name in ("from_pretrained", "save_pretrained")]
    return [(inspect.signature(method), method.__doc__, method.__qualname__, method.__module__) for _, method in found]

before = described()
import shapeshift.integrations.transformers
assert described() == before
folder = sys.argv[1]
config = transformers.BertConfig(vocab_size=48, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
transformers.BertModel(config).save_pretrained(save_directory=folder, is_main_process=True)
model, info = transformers.BertModel.from_pretrained(
    pretrained_model_name_or_path=folder, config=config, output_loading_info=True
)
assert not any(info.values()), info
model = transformers.BertModel.from_pretrained(folder, False, config=config)
assert model.pooler is None  # a positional argument of the model's own
"""


def test_the_import_changes_nothing_about_plain_models(tmp_path: Path) -> None:
    run_python(["-c", SIGNATURES, str(tmp_path)])


class TestLoading:
    @pytest.mark.parametrize("name", ["gpt2", "t5"])
    def test_in_half_precision(self, name: str, tmp_path: Path) -> None:
        case, auto = AUTO[name]
        model, inputs = trained(shapeshift.compress(case.build(), "50%")), case.inputs()
        model.save_pretrained(tmp_path)
        loaded = auto.from_pretrained(tmp_path, dtype=torch.bfloat16)
        assert {tensor.dtype for tensor in require_shared(loaded).state_dict().values()} == {torch.bfloat16}
        expected = model.to(torch.bfloat16)
        assert_close(logits(loaded, inputs), logits(expected, inputs), "identical")
        loaded.save_pretrained(tmp_path)
        assert config_of(tmp_path)["dtype"] == "bfloat16"
        assert_close(logits(auto.from_pretrained(tmp_path), inputs), logits(expected, inputs), "identical")

    @pytest.mark.parametrize("device_map", [None, "cpu", {"": "cpu"}, "auto"], ids=str)
    def test_onto_a_device(self, device_map: Any, tmp_path: Path) -> None:
        model, inputs = trained(shapeshift.compress(gpt2(), "50%")), words()
        model.save_pretrained(tmp_path)
        loaded = AutoCausal.from_pretrained(tmp_path, device_map=device_map)
        assert_close(logits(loaded, inputs), logits(model, inputs), "identical")

    def test_with_a_configuration_of_the_users_own(self, tmp_path: Path) -> None:
        model, inputs = trained(shapeshift.compress(gpt2(), "50%")), words()
        model.save_pretrained(tmp_path)
        for config in (model.config, gpt2().config):
            loaded = type(model).from_pretrained(tmp_path, config=config)
            assert_close(logits(loaded, inputs), logits(model, inputs), "identical")
            assert_plain(loaded)
            assert not hasattr(config, "quantization_config")
        plain = shapeshift.materialize(model)
        plain.save_pretrained(tmp_path)
        assert not shapeshift.is_compressed(type(plain).from_pretrained(tmp_path, config=plain.config))

    def test_from_a_state_dict(self, tmp_path: Path) -> None:
        model, inputs = trained(shapeshift.compress(gpt2(), "50%")), words()
        shapeshift.compress(gpt2(), "50%").save_pretrained(tmp_path)
        config = transformers.AutoConfig.from_pretrained(tmp_path)
        loaded = transformers.GPT2LMHeadModel.from_pretrained(None, config=config, state_dict=model.state_dict())
        assert_close(logits(loaded, inputs), logits(model, inputs), "identical")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"device_map": {"transformer": "cpu", "lm_head": "disk"}}, "cannot be spread over cpu, disk"),
            ({"device_map": {"": "disk"}}, "cannot be spread over disk"),
        ],
    )
    def test_onto_several_devices_is_refused(self, options: Any, message: str, tmp_path: Path) -> None:
        shapeshift.compress(gpt2(), "50%").save_pretrained(tmp_path)
        with pytest.raises(ConfigError, match=message):
            AutoCausal.from_pretrained(tmp_path, **options)

    @pytest.mark.filterwarnings("ignore:You passed `quantization_config`:UserWarning")
    def test_while_loading_a_plain_checkpoint_nothing_is_compressed(self, tmp_path: Path) -> None:
        gpt2().save_pretrained(tmp_path)
        with pytest.raises(ConfigError, match=r"load the model as it is, and call shapeshift\.compress"):
            AutoCausal.from_pretrained(tmp_path, quantization_config=ShapeshiftConfig())

    DAMAGES: ClassVar[dict[str, tuple[Callable[[dict[str, Any]], Any], str]]] = {
        "no recipe": (lambda found: found.pop("recipe"), "was not written by"),
        "foreign": (lambda found: found.update(recipe={"bits": 4}), "was not written by"),
        "newer": (lambda found: found["recipe"].update(format_version=99), "format version 99.*Upgrade"),
        "no plan": (lambda found: found["recipe"].pop("plan"), "damaged: its plan cannot be read"),
        "groups of another kind": (lambda found: found["recipe"]["plan"].update(groups=5), "cannot be read"),
        "unknown generator": (lambda found: found["recipe"]["plan"]["config"].update(combine="magic"), "'magic'"),
        "outside of the store": (
            lambda found: found["recipe"]["plan"]["groups"][0]["layout"]["draws"][0].update(offset=10**6),
            "damaged: its plan cannot be read",
        ),
        "another shape": (
            lambda found: found["recipe"]["plan"]["groups"][0]["weights"][1].update(shape=[2, 2]),
            "damaged: its plan does not work",
        ),
        "another module": (lambda found: found.update(module="transformer"), "is not a parameter of the model"),
    }

    @pytest.mark.parametrize("kind", DAMAGES)
    def test_a_damaged_recipe_is_refused(self, kind: str, tmp_path: Path) -> None:
        damage, message = self.DAMAGES[kind]
        shapeshift.compress(gpt2(), "50%").save_pretrained(tmp_path)
        edit_config(tmp_path, lambda content: damage(content["quantization_config"]))
        with pytest.raises(CheckpointError, match=message) as caught:
            AutoCausal.from_pretrained(tmp_path)
        assert tmp_path.name in str(caught.value) or "config.json" in str(caught.value)

    def test_missing_and_foreign_tensors_are_refused(self, tmp_path: Path) -> None:
        shapeshift.compress(gpt2(), "50%").save_pretrained(tmp_path)
        file = tmp_path / "model.safetensors"
        content = load_file(file)
        store, gains = (next(name for name in content if part in name) for part in (".store.", ".gains"))
        for name in (store, gains):
            save_file({key: value for key, value in content.items() if key != name}, file, {"format": "pt"})
            with pytest.raises(CheckpointError, match=f"lack {name}"):
                AutoCausal.from_pretrained(tmp_path)
        save_file({**content, store: torch.zeros(3, 1)}, file, {"format": "pt"})
        with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
            AutoCausal.from_pretrained(tmp_path)

    def test_a_compressed_base_model_takes_any_head(self, tmp_path: Path) -> None:
        whole, inputs = bert(), words()
        shapeshift.compress(whole.bert, "50%", exclude=["embeddings.word_embeddings"])
        hidden = trained(whole).bert(*inputs).last_hidden_state
        whole.save_pretrained(tmp_path / "whole")
        assert config_of(tmp_path / "whole")["quantization_config"]["module"] == "bert"
        same = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "whole")
        assert_close(logits(same, inputs), logits(whole, inputs), "identical")
        base = transformers.AutoModel.from_pretrained(tmp_path / "whole", add_pooling_layer=False)
        assert_close(base(*inputs).last_hidden_state, hidden, "identical")
        base.save_pretrained(tmp_path / "base")
        for folder in ("whole", "base"):
            other, info = transformers.AutoModelForTokenClassification.from_pretrained(
                tmp_path / folder, output_loading_info=True
            )
            assert info["missing_keys"] == {"classifier.weight", "classifier.bias"}
            assert shapeshift.is_compressed(other)
            assert_close(other.bert(*inputs).last_hidden_state, hidden, "identical")
            assert other.classifier.weight.std() > 0

    def test_parts_that_cannot_be_loaded_are_not_saved(self, tmp_path: Path) -> None:
        model = shapeshift.compress(gpt2(), "50%")
        with pytest.raises(ModelError, match="GPT2Model is a part of a compressed model"):
            model.transformer.save_pretrained(tmp_path)
        half = gpt2()
        shapeshift.compress(half.transformer, "50%")
        with pytest.raises(ModelError, match=r"lm_head\.weight and transformer\.wte\.weight are tied"):
            half.save_pretrained(tmp_path)
        model.config.quantization_config = {"quant_method": "bitsandbytes"}
        with pytest.raises(ModelError, match="compressed and quantized"):
            model.save_pretrained(tmp_path)
        assert list(tmp_path.iterdir()) == []


IMPORTS = """
import sys
import torch
import transformers
import shapeshift
from safetensors.torch import load_file

folder = sys.argv[1]
assert "shapeshift.integrations.transformers" not in sys.modules
try:
    transformers.AutoModelForCausalLM.from_pretrained(folder)
except ValueError as error:
    assert "run `import shapeshift.integrations.transformers` before loading it" in str(error), error
else:
    raise AssertionError("loaded without what loads it")

config = transformers.GPT2Config(vocab_size=48, n_positions=24, n_embd=16, n_layer=2, n_head=2)
model = shapeshift.compress(transformers.GPT2LMHeadModel(config), "50%").eval()

import shapeshift.integrations.transformers

tokens = torch.randint(48, (2, 7))
model.save_pretrained(folder)
loaded = transformers.AutoModelForCausalLM.from_pretrained(folder)
assert torch.equal(loaded(tokens).logits, model(tokens).logits)
"""


def test_the_import_may_come_late_but_not_never(tmp_path: Path) -> None:
    shapeshift.compress(gpt2(), "50%").save_pretrained(tmp_path)
    run_python(["-c", IMPORTS, str(tmp_path)])


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_generated_text_is_the_same_in_every_form(name: str, tmp_path: Path) -> None:
    case, auto = AUTO[name]
    model, (tokens, *_) = trained(shapeshift.compress(case.build(), "50%")), case.inputs()
    options = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(tokens), "eos_token_id": None}
    expected = model.generate(tokens, **options)
    beams = model.generate(tokens, num_beams=3, **options)
    assert expected.shape[1] >= 8
    model.save_pretrained(tmp_path)
    for other in (auto.from_pretrained(tmp_path), shapeshift.materialize(model)):
        assert other.generate(tokens, **options).equal(expected)
        assert other.generate(tokens, num_beams=3, **options).equal(beams)


@pytest.mark.parametrize("combine", list(GENERATORS))
def test_shared_parameters_are_not_offloaded(combine: str) -> None:
    model = shapeshift.compress(gpt2(), "50%", combine=combine).eval()
    accelerate.cpu_offload(model, torch.device("cpu"))
    with pytest.raises(ModelError, match=r"generated from parameters that hold no values.*materialize"):
        model(*words())
    with pytest.raises(ModelError, match="generated from parameters that hold no values"):
        shapeshift.materialize(model)


def test_what_is_materialized_is_offloaded_as_any_model() -> None:
    model, inputs = trained(shapeshift.compress(gpt2(), "50%")), words()
    expected = logits(model, inputs)
    offloaded = accelerate.cpu_offload(shapeshift.materialize(model), torch.device("cpu"))
    assert_close(logits(offloaded, inputs), expected, "identical")


def settings(folder: Path, **options: Any) -> transformers.TrainingArguments:
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "max_steps": 4,
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 3,
    }
    return transformers.TrainingArguments(output_dir=str(folder), **(defaults | options))


def rows(count: int = 16) -> list[dict[str, Tensor]]:
    tokens = torch.randint(3, 48, (count, 8), generator=torch.Generator().manual_seed(5))
    return [{"input_ids": row, "labels": row} for row in tokens]


def train(folder: Path, model: Any, resume: str | None = None, **options: Any) -> list[float]:
    """Train a model, and return the loss of each step."""
    trainer = transformers.Trainer(model, settings(folder, **options), train_dataset=rows())
    trainer.train(resume_from_checkpoint=resume and str(folder / resume))
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def lora(**options: Any) -> Any:
    defaults = {"task_type": "CAUSAL_LM", "target_modules": ["c_attn"], "fan_in_fan_out": True}
    return peft.LoraConfig(**(defaults | options))


def seeded(build: Callable[[], Any] = gpt2, budget: str = "50%") -> Any:
    torch.manual_seed(1)
    return shapeshift.compress(build(), budget)


class TestTrainer:
    @pytest.mark.parametrize("name", ["gpt2", "t5"])
    def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(self, name: str, tmp_path: Path) -> None:
        build, auto = AUTO[name][0].build, AUTO[name][1]
        model = seeded(build)
        losses = train(tmp_path, model, save_strategy="steps", save_steps=2)
        assert len(set(losses)) == 4
        assert min(losses[1:]) < losses[0]
        again = trained(seeded(build))
        resumed = train(tmp_path, again, "checkpoint-2", save_strategy="steps", save_steps=2)
        assert resumed == losses
        assert_close(dict(again.state_dict()), dict(model.state_dict()), "identical")
        # Its checkpoints are models of their own, and training goes on from those as well.
        loaded = auto.from_pretrained(tmp_path / "checkpoint-2").train()
        # Their tensors are not aligned in memory, so that products may round differently.
        assert_close(train(tmp_path, loaded, "checkpoint-2", save_strategy="steps", save_steps=2), losses, "reordered")

    def test_the_best_checkpoint_is_loaded_at_the_end(self, tmp_path: Path) -> None:
        model = seeded()
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
        trainer = transformers.Trainer(model, arguments, train_dataset=rows(), eval_dataset=rows())
        trainer.train()
        best = Path(trainer.state.best_model_checkpoint)
        assert best.name != "checkpoint-3"
        assert_close(dict(AutoCausal.from_pretrained(best).state_dict()), dict(model.state_dict()), "identical")

    @pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
    def test_gradient_checkpointing_changes_no_loss(self, tmp_path: Path) -> None:
        still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        seen: list[bool] = []
        ends = []
        for checkpointing in (False, True):
            model = seeded(lambda: gpt2(**still))
            model.transformer.h[0].attn.register_forward_pre_hook(lambda *_: seen.append(torch.is_grad_enabled()))
            losses = train(tmp_path, model, gradient_checkpointing=checkpointing)
            ends.append((losses, [parameter.detach() for parameter in model.parameters()]))
        assert len(seen) == 4 + 8  # blocks ran again
        assert_close(ends[1], ends[0], "reordered")

    def test_bfloat16_is_close_to_full_precision(self, tmp_path: Path) -> None:
        seen: list[torch.dtype] = []
        ends = []
        for bf16 in (False, True):
            model = seeded()
            model.transformer.h[0].attn.c_attn.register_forward_hook(lambda *found: seen.append(found[-1].dtype))
            ends.append(train(tmp_path, model, bf16=bf16))
            assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert set(seen) == {torch.float32, torch.bfloat16}
        assert_close(ends[1], ends[0], "half")
        assert ends[1] != ends[0]

    def test_labels_are_smoothed_as_those_of_the_plain_model(self, tmp_path: Path) -> None:
        # The Trainer tells by the name of the class that the label of a token is the next one.
        model = seeded()
        plain = shapeshift.materialize(copy.deepcopy(model))
        batch = {name: torch.stack([row[name] for row in rows(4)]) for name in ("input_ids", "labels")}
        losses = [
            transformers.Trainer(found.eval(), settings(tmp_path, label_smoothing_factor=0.1)).compute_loss(
                found, dict(batch)
            )
            for found in (model, plain)
        ]
        assert_close(losses[0], losses[1], "identical")


class TestLoRA:
    def test_an_adapter_is_trained_saved_and_merged(self, tmp_path: Path) -> None:
        model = seeded()
        model.save_pretrained(tmp_path / "base")
        kept = {name: tensor.clone() for name, tensor in require_shared(model).named_parameters()}
        tokens = words()
        before = logits(model.eval(), tokens)
        adapted = peft.get_peft_model(model, lora())
        assert_close(logits(adapted.eval(), tokens), before, "identical")
        losses = train(tmp_path, adapted.train(), learning_rate=0.1, lr_scheduler_type="constant")
        assert min(losses[1:]) < losses[0]
        assert_close(dict(require_shared(model).named_parameters()), kept, "identical")

        adapted.eval().save_pretrained(tmp_path / "adapter")
        base = AutoCausal.from_pretrained(tmp_path / "base")
        loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        expected = logits(adapted, tokens)
        assert (expected[0] - before[0]).abs().max() > 1e-2
        assert_close(logits(loaded, tokens), expected, "reordered")
        with pytest.raises(GeneratedWeightError, match=r"c_attn\.weight .*materialize"):
            loaded.merge_and_unload()
        merged = shapeshift.materialize(loaded).merge_and_unload()
        assert not shapeshift.is_compressed(merged)
        assert_close(logits(merged, tokens), expected, "reordered")

    def test_a_head_that_is_kept_out_is_trained_whole(self) -> None:
        model = shapeshift.compress(bert("SequenceClassification"), "50%", exclude=["classifier"])
        adapted = peft.get_peft_model(model, lora(task_type="SEQ_CLS", target_modules=["query"], fan_in_fan_out=False))
        trainable = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
        beside = {name.rpartition(".")[-1] for name in trainable if "lora" not in name}
        assert beside == {"weight", "bias"}
        loss = adapted(*words(), labels=torch.tensor([0, 1])).loss
        loss.backward()
        assert all(adapted.get_parameter(name).grad is not None for name in trainable)


def train_in_processes(folder: Path) -> None:
    model = seeded(lambda: gpt2(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
    arguments = settings(folder, per_device_train_batch_size=2, save_strategy="steps", save_steps=2, optim="sgd")
    trainer = transformers.Trainer(model, arguments, train_dataset=rows())
    assert trainer.args.world_size == WORLD
    trainer.train()
    torch.save(model.state_dict(), folder / f"{trainer.args.process_index}.pt")


@needs_gloo
def test_accelerate_launches_two_processes(tmp_path: Path) -> None:
    launch(train_in_processes, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD))
    assert_close(first, second, "identical")
    assert_close(dict(AutoCausal.from_pretrained(tmp_path / "checkpoint-4").state_dict()), dict(first), "identical")
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = seeded(lambda: gpt2(**still))
    train(tmp_path / "alone", model, optim="sgd")
    assert_close(dict(model.state_dict()), dict(first), "reordered")
