"""Compressed adapters of PEFT: saved in files of the budget's size, loaded, switched, deleted and merged."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

import shapeshift
import shapeshift.integrations.peft
from shapeshift.errors import CheckpointError, ModelError
from shapeshift.surgery.roots import require_shared
from tests.processes import run_python
from tests.tolerances import assert_close

CAUSAL: dict[str, Any] = {"task_type": "CAUSAL_LM"}
TARGETS: dict[str, Any] = {**CAUSAL, "target_modules": ["q_proj", "v_proj"]}
RANK: dict[str, Any] = {**TARGETS, "r": 4}
TOKENS = torch.arange(12).view(2, 6) + 1


def llama(**options: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 40}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 32}
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config: Any = transformers.LlamaConfig(**{**sizes, **heads, **ids, **options})
    return transformers.LlamaForCausalLM(config).eval()


def adapted(config: Any = None, seed: int = 1, **options: Any) -> Any:
    """Return a compressed adapter on the base, after some steps of training."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(llama(), peft.LoraConfig(**RANK) if config is None else config)
    return trained(shapeshift.compress(model, options.pop("budget", "60%"), seed=seed, **options))


def trained(model: Any) -> Any:
    optimizer = torch.optim.Adam([found for found in model.parameters() if found.requires_grad], lr=0.02)
    for _ in range(3):
        optimizer.zero_grad()
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(input_ids=TOKENS).logits
    return found


METHODS: dict[str, Any] = {
    "lora": lambda: peft.LoraConfig(**RANK),
    "dora": lambda: peft.LoraConfig(**RANK, use_dora=True),
    "lora of embeddings": lambda: peft.LoraConfig(**CAUSAL, r=4, target_modules=["embed_tokens"]),
    "target_parameters": lambda: peft.LoraConfig(**CAUSAL, r=4, target_modules=[], target_parameters=["q_proj.weight"]),
    "hira": lambda: peft.HiraConfig(**RANK),
    "loha": lambda: peft.LoHaConfig(**RANK),
    "lokr": lambda: peft.LoKrConfig(**RANK),
    "oft": lambda: peft.OFTConfig(**TARGETS, r=0, oft_block_size=8),
    "vblora": lambda: peft.VBLoRAConfig(**RANK, num_vectors=16, vector_length=8, topk=2),
}


class TestSaving:
    @pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
    @pytest.mark.parametrize("method", METHODS)
    def test_an_adapter_comes_back_in_a_file_of_the_budget(self, method: str, tmp_path: Path) -> None:
        model = adapted(METHODS[method]())
        expected = logits(model)
        state = copy.deepcopy(model.state_dict())
        model.save_pretrained(tmp_path)
        assert_close(logits(model), expected, "identical")
        assert_close(model.state_dict(), state, "identical")
        torch.manual_seed(7)
        loaded = peft.PeftModel.from_pretrained(llama(), tmp_path)
        assert shapeshift.is_compressed(loaded)
        assert_close(logits(loaded), expected, "identical")
        if method != "lora of embeddings":  # where PEFT saves the embeddings as well
            numbers = sum(tensor.numel() for tensor in load_file(tmp_path / "adapter_model.safetensors").values())
            assert numbers < shapeshift.count_parameters(model) + 2000
        loaded.save_pretrained(tmp_path / "again")
        again = peft.PeftModel.from_pretrained(llama(), tmp_path / "again", is_trainable=True)
        assert_close(logits(again), expected, "identical")
        assert shapeshift.count_parameters(again) == shapeshift.count_parameters(model)
        assert not shapeshift.count_parameters(loaded)

    @pytest.mark.parametrize("combine", ["wavg", "emb", "ring", "hypernetwork"])
    @pytest.mark.parametrize("store", ["float32", "int8"])
    def test_whatever_makes_the_weights(self, combine: str, store: str, tmp_path: Path) -> None:
        options = {} if combine == "hypernetwork" else {"store": store}
        model = adapted(combine=combine, mapping={"*lora_A*": "a", "*": "b"}, budget="80%", **options)
        model.save_pretrained(tmp_path)
        assert_close(logits(peft.PeftModel.from_pretrained(llama(), tmp_path)), logits(model), "identical")

    def test_other_entries_of_the_adapter_are_kept(self, tmp_path: Path) -> None:
        model = adapted(peft.LoraConfig(**RANK, modules_to_save=["lm_head"], use_dora=True), exclude=["*lm_head*"])
        model.save_pretrained(tmp_path)
        assert_close(logits(peft.PeftModel.from_pretrained(llama(), tmp_path)), logits(model), "identical")

    @pytest.mark.parametrize("generated", [True, False])
    def test_a_layer_that_is_trained_whole(self, generated: bool, tmp_path: Path) -> None:
        config = peft.LoraConfig(**RANK, modules_to_save=["lm_head"])
        options: dict[str, Any] = {"init": "fit"} if generated else {"exclude": ["*lm_head*"]}
        model = adapted(config, budget="90%", **options)
        model.save_pretrained(tmp_path)
        assert_close(logits(peft.PeftModel.from_pretrained(llama(), tmp_path)), logits(model), "identical")

    def test_a_state_dict_that_was_gathered_is_taken(self, tmp_path: Path) -> None:
        model = adapted()
        gathered = copy.deepcopy(model.state_dict())
        expected = logits(model)
        with torch.no_grad():
            for parameter in require_shared(model).parameters():
                parameter.zero_()
        model.save_pretrained(tmp_path, state_dict=gathered)
        assert_close(logits(peft.PeftModel.from_pretrained(llama(), tmp_path)), expected, "identical")

    def test_a_prompt_is_saved_as_it_is(self, tmp_path: Path) -> None:
        model = adapted(peft.PromptTuningConfig(**CAUSAL, num_virtual_tokens=4))
        model.save_pretrained(tmp_path)
        loaded = peft.PeftModel.from_pretrained(llama(), tmp_path)
        assert not shapeshift.is_compressed(loaded)
        assert_close(logits(loaded), logits(model), "identical")

    def test_errors_of_a_fit_stay_known(self, tmp_path: Path) -> None:
        plain = trained(peft.get_peft_model(llama(), peft.LoraConfig(**RANK)))
        model = shapeshift.compress(plain, "50%", init="fit")
        model.save_pretrained(tmp_path)
        loaded = peft.PeftModel.from_pretrained(llama(), tmp_path)
        assert require_shared(loaded).fit_errors == require_shared(model).fit_errors

    def test_adapters_on_a_compressed_base_are_saved_as_before(self, tmp_path: Path) -> None:
        base = shapeshift.compress(llama(), "60%", seed=0)
        fresh = copy.deepcopy(base)
        model = trained(peft.get_peft_model(base, peft.LoraConfig(**RANK)))
        model.save_pretrained(tmp_path)
        assert len(load_file(tmp_path / "adapter_model.safetensors")) == 8
        assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "LORA"
        assert_close(logits(peft.PeftModel.from_pretrained(fresh, tmp_path)), logits(model), "identical")


class TestRefusals:
    def test_another_architecture_is_refused_and_unchanged(self, tmp_path: Path) -> None:
        adapted().save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match=r"q_proj\.lora_A\.weight is \(4, 32\) in the adapter and \(4, 16\)"):
            peft.PeftModel.from_pretrained(llama(hidden_size=16), tmp_path)
        with pytest.raises(CheckpointError, match=r"layers\.1\.\S+ \(4, 32\) is in the adapter and not in the model"):
            peft.PeftModel.from_pretrained(llama(num_hidden_layers=1), tmp_path)

    def test_a_damaged_state_is_refused(self) -> None:
        model = adapted()
        state = peft.get_peft_model_state_dict(model)
        key = next(key for key, tensor in state.items() if tensor.dtype == torch.uint8)
        fresh = peft.get_peft_model(llama(), peft.LoraConfig(**RANK))
        for damaged in (
            {**state, key: state[key][:-9]},
            {name: tensor for name, tensor in state.items() if not name.startswith("shapeshift.")},
        ):
            with pytest.raises(CheckpointError):
                peft.set_peft_model_state_dict(fresh, damaged)
        assert not shapeshift.is_compressed(fresh)

    def test_an_adapter_that_is_compressed_in_another_way_is_refused_and_unchanged(self, tmp_path: Path) -> None:
        model, other = adapted(), adapted(budget="40%")
        model.save_pretrained(tmp_path)
        expected = logits(other)
        with pytest.raises(CheckpointError, match=r"lora_A.* in another way .* another adapter_name, or delete"):
            other.load_adapter(tmp_path, "default")
        assert_close(logits(other), expected, "identical")

    def test_adapters_of_two_kinds_of_generators_are_refused_and_unchanged(self, tmp_path: Path) -> None:
        adapted(combine="ring").save_pretrained(tmp_path)
        model = adapted()
        expected = logits(model)
        with pytest.raises(CheckpointError, match="combine is 'wavg' in the adapters of the model and 'ring' in the"):
            model.load_adapter(tmp_path, "second")
        assert_close(logits(model), expected, "identical")

    def test_a_compressed_base_is_refused(self, tmp_path: Path) -> None:
        adapted().save_pretrained(tmp_path)
        with pytest.raises(ModelError, match="materialize"):
            peft.PeftModel.from_pretrained(shapeshift.compress(llama(), "60%"), tmp_path)


class TestMethods:
    @pytest.mark.parametrize(
        "config",
        [
            lambda: peft.IA3Config(**TARGETS, feedforward_modules=[]),
            lambda: peft.VeraConfig(**RANK),
            lambda: peft.UniLoraConfig(**RANK, theta_d_length=64),
            lambda: peft.FourierFTConfig(**TARGETS, n_frequency=50),
            lambda: peft.ShiraConfig(**RANK),
        ],
        ids=["ia3", "vera", "unilora", "fourierft", "shira"],
    )
    def test_of_vectors_are_refused_with_what_to_take(self, config: Any) -> None:
        model = peft.get_peft_model(llama(), config())
        with pytest.raises(ModelError, match=r"trains \S+ \(.+\), a vector: .* its method's own options, or .* LoRA"):
            shapeshift.compress(model, "50%")

    def test_one_that_needs_gradients_of_entries_is_refused_with_what_to_take(self) -> None:
        model = peft.get_peft_model(llama(), peft.AdaLoraConfig(**TARGETS, init_r=4, total_step=10))
        with pytest.raises(ModelError, match=r"lora_A\.default \(4, 32\) is a matrix of AdaLoRA.* Take LoRA"):
            shapeshift.compress(model, "50%")
        assert not shapeshift.is_compressed(model)


class TestSeveral:
    @pytest.fixture
    def folders(self, tmp_path: Path) -> list[Path]:
        """Save two adapters."""
        folders = [tmp_path / "first", tmp_path / "second"]
        for number, folder in enumerate(folders):
            adapted(seed=number + 1, budget=["60%", "40%"][number]).save_pretrained(folder)
        return folders

    def test_are_loaded_switched_and_deleted(self, folders: list[Path]) -> None:
        alone = [logits(peft.PeftModel.from_pretrained(llama(), folder)) for folder in folders]
        model = peft.PeftModel.from_pretrained(llama(), folders[0])
        model.load_adapter(folders[1], "second")
        assert_close(logits(model), alone[0], "identical")
        model.set_adapter("second")
        assert_close(logits(model), alone[1], "identical")
        with model.disable_adapter():
            assert_close(logits(model), logits(llama()), "identical")
        model.set_adapter("default")
        assert_close(logits(model), alone[0], "identical")
        model.set_adapter("second")
        model.delete_adapter("default")
        assert_close(logits(model), alone[1], "identical")
        assert len(require_shared(model)) == 1
        model.delete_adapter("second")
        assert not shapeshift.is_compressed(model)

    def test_train_one_at_a_time(self, folders: list[Path]) -> None:
        model = peft.PeftModel.from_pretrained(llama(), folders[0], is_trainable=True)
        model.load_adapter(folders[1], "second", is_trainable=False)
        counts = [shapeshift.count_parameters(model)]
        model.set_adapter("second")
        counts.append(shapeshift.count_parameters(model))
        assert counts[0] > counts[1] > 0
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        second = logits(model)
        model.set_adapter("default")
        first = logits(model)
        model.set_adapter("second")
        trained(model)
        assert (logits(model) - second).abs().max() > 1e-3
        changed = {name for name, tensor in model.state_dict().items() if not tensor.equal(before[name])}
        assert changed
        assert all("all_2" in name for name in changed)
        model.set_adapter("default")
        assert_close(logits(model), first, "identical")

    def test_are_saved_by_name_and_together(self, folders: list[Path], tmp_path: Path) -> None:
        model = peft.PeftModel.from_pretrained(llama(), folders[0])
        model.load_adapter(folders[1], "second")
        model.save_pretrained(tmp_path / "both")
        shapeshift.save(model, tmp_path / "whole")
        for name, folder in (("default", tmp_path / "both"), ("second", tmp_path / "both" / "second")):
            model.set_adapter(name)
            assert_close(logits(peft.PeftModel.from_pretrained(llama(), folder)), logits(model), "identical")
        fresh = peft.get_peft_model(llama(), peft.LoraConfig(**RANK))
        fresh.add_adapter("second", peft.LoraConfig(**RANK))
        shapeshift.load(tmp_path / "whole", fresh).eval()
        fresh.set_adapter("second")
        assert_close(logits(fresh), logits(model), "identical")

    def test_one_is_loaded_again_in_place(self, folders: list[Path]) -> None:
        model = peft.PeftModel.from_pretrained(llama(), folders[0], is_trainable=True)
        expected = logits(model)
        parameters = list(require_shared(model).parameters())
        trained(model)
        assert (logits(model) - expected).abs().max() > 1e-3
        model.load_adapter(folders[0], "default", is_trainable=True)
        assert_close(logits(model), expected, "identical")
        assert [id(found) for found in require_shared(model).parameters()] == [id(found) for found in parameters]

    @pytest.mark.parametrize("method", ["lora", "loha", "lokr"])
    def test_one_is_merged_into_the_base(self, method: str) -> None:
        model = adapted(METHODS[method]())
        expected = logits(model)
        model.merge_adapter()
        assert_close(logits(model), expected, "reordered")
        model.unmerge_adapter()
        assert_close(logits(model), expected, "reordered")
        merged = model.merge_and_unload()
        assert_close(logits(merged), expected, "reordered")
        assert shapeshift.is_compressed(merged) is False
        assert dict(merged.named_parameters()).keys() == dict(llama().named_parameters()).keys()

    def test_plain_ones_beside_a_compressed_one(self, tmp_path: Path) -> None:
        model = adapted()
        model.add_adapter("plain", peft.LoraConfig(**RANK))
        model.set_adapter("plain")
        trained(model)
        model.save_pretrained(tmp_path)
        assert json.loads((tmp_path / "plain" / "adapter_config.json").read_text())["peft_type"] == "LORA"
        assert_close(logits(peft.PeftModel.from_pretrained(llama(), tmp_path / "plain")), logits(model), "identical")


class TestRequiresGrad:
    @pytest.mark.parametrize("held", [0, 1])
    def test_of_a_weight_survives_materialize(self, held: int) -> None:
        model = shapeshift.compress(nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)), "60%")
        model[held].weight.requires_grad_(False)
        shapeshift.materialize(model)
        assert [layer.weight.requires_grad for layer in model] == [held != 0, held != 1]

    def test_of_a_weight_in_a_frozen_group_trains_that_weight(self) -> None:
        model = shapeshift.compress(nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)), "60%").requires_grad_(False)
        assert model[1].weight.requires_grad_(True).requires_grad
        assert not model[0].weight.requires_grad
        x = torch.randn(4, 16)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", shapeshift.ShapeshiftWarning)
            model(x).sum().backward()
        assert all(found.grad is not None for found in require_shared(model).parameters())


SAVE = """
import peft, torch, shapeshift, sys, pathlib
folder = pathlib.Path(sys.argv[1])
print = lambda line: (folder / "said").open("a").write(f"{line}\\n")
model = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(32, 32)), peft.LoraConfig(target_modules=["0"]))
shapeshift.compress(model, "50%")
for frozen in (False, True):
    model.requires_grad_(not frozen)
    try:
        model.save_pretrained(folder / "new")
    except shapeshift.ModelError as error:
        print(error)
print((folder / "new").exists())
try:
    peft.PeftModel.from_pretrained(torch.nn.Sequential(torch.nn.Linear(32, 32)), folder)
except Exception as error:
    print(error)
"""


def test_without_the_import_nothing_is_written_or_read(tmp_path: Path) -> None:
    model = peft.get_peft_model(nn.Sequential(nn.Linear(32, 32)), peft.LoraConfig(target_modules=["0"]))
    shapeshift.compress(model, "50%").save_pretrained(tmp_path)
    run_python(["-c", SAVE, str(tmp_path)])
    lines = (tmp_path / "said").read_text().splitlines()
    assert len(lines) == 4
    assert all("save_pretrained after `import shapeshift.integrations.peft`" in line for line in lines[:2])
    assert lines[2] == "False"
    assert "run `import shapeshift.integrations.peft` before loading it" in lines[3]


class TestTraining:
    @staticmethod
    def trainer(model: Any, folder: Path, **options: Any) -> transformers.Trainer:
        examples: Any = [{"input_ids": row, "labels": row} for row in TOKENS] * 8
        quiet: dict[str, Any] = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "logging_steps": 1}
        chosen: dict[str, Any] = {"save_strategy": "no", "learning_rate": 0.02, "lr_scheduler_type": "constant"}
        arguments = transformers.TrainingArguments(str(folder), max_steps=4, **{**quiet, **chosen, **options})
        trainer = transformers.Trainer(model, arguments, train_dataset=examples)
        trainer.remove_callback(transformers.PrinterCallback)
        return trainer

    @staticmethod
    def model() -> Any:
        torch.manual_seed(1)
        return shapeshift.compress(peft.get_peft_model(llama(), peft.LoraConfig(**RANK)), "60%", seed=0)

    def test_resumes_from_a_checkpoint_of_the_trainer(self, tmp_path: Path) -> None:
        whole, resumed = self.model(), self.model()
        self.trainer(whole, tmp_path, save_strategy="steps", save_steps=2).train()
        file = tmp_path / "checkpoint-2" / "adapter_model.safetensors"
        assert sum(tensor.numel() for tensor in load_file(file).values()) < shapeshift.count_parameters(whole) + 2000
        self.trainer(resumed, tmp_path / "new").train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
        assert_close(logits(resumed.eval()), logits(whole.eval()), "reordered")

    @pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
    @pytest.mark.parametrize(
        "options",
        [{"bf16": True}, {"gradient_checkpointing": True}, {"gradient_accumulation_steps": 2}],
        ids=["bf16", "checkpointing", "accumulation"],
    )
    def test_starts_as_the_plain_adapter_and_learns(self, options: dict[str, Any], tmp_path: Path) -> None:
        model = self.model()
        losses = []
        for found in (model, shapeshift.materialize(copy.deepcopy(model))):
            trainer = self.trainer(found, tmp_path, **options)
            trainer.train()
            losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        assert_close(torch.tensor(losses[0][0]), torch.tensor(losses[1][0]), "reordered")
        assert losses[0][-1] < losses[0][0]


class TestFitting:
    @pytest.fixture
    def plain(self) -> Any:
        """Return an adapter after training, whose matrices have few directions that count."""
        torch.manual_seed(1)
        model = trained(peft.get_peft_model(llama(), peft.LoraConfig(**{**RANK, "r": 8})))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.mul_(10)
        return model

    def test_a_trained_adapter_keeps_its_outputs_as_the_budget_grows(self, plain: Any) -> None:
        expected, base = logits(plain), logits(llama())
        errors = []
        for budget in ("2%", "25%", "75%", "100%"):
            model = shapeshift.compress(copy.deepcopy(plain), budget, init="fit", seed=0)
            errors.append(((logits(model) - expected).norm() / (expected - base).norm()).item())
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 1e-4
        assert errors[0] < 1.1

    def test_calibration_lowers_the_error_of_the_outputs(self, plain: Any) -> None:
        expected = logits(plain)
        errors = []
        for calibration in (None, [{"input_ids": TOKENS}]):
            model = shapeshift.compress(copy.deepcopy(plain), "50%", init="fit", seed=0, calibration=calibration)
            errors.append((logits(model) - expected).norm().item())
        assert errors[1] < errors[0]
