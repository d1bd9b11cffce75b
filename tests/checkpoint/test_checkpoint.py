"""Saving and loading: everything comes back bit by bit, and what cannot be loaded changes nothing."""

from __future__ import annotations

import base64
import itertools
import json
import os
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import shapeshift
from shapeshift.checkpoint import files
from shapeshift.checkpoint.content import inflated
from shapeshift.checkpoint.files import PLAN_FILE, TENSORS_FILE
from shapeshift.checkpoint.packing import directory, kept_tensors, packed, unpacked
from shapeshift.errors import CheckpointError, ModelError
from shapeshift.plan import Plan
from shapeshift.surgery.roots import require_shared
from tests.methods import compressed, every_method
from tests.models import MODELS, Case, Language, Residual, mlp, tensors
from tests.tolerances import assert_close

BUDGETS = (0.5, 2.5)


def gpt2() -> nn.Module:
    """A language model whose head is tied to its embedding."""
    config = transformers.GPT2Config(
        vocab_size=64, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def llama() -> nn.Module:
    """A language model whose rotary frequencies are buffers that no state dict holds."""
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.LlamaModel(config)


def swin() -> nn.Module:
    """A vision transformer with index buffers that no state dict holds."""
    return timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=32, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(1, 2)
    )


def resnet(**options: Any) -> nn.Module:
    return timm.create_model("resnet18", num_classes=5, **options)


def images() -> tuple[Tensor]:
    return (torch.randn(2, 3, 32, 32),)


def tokens() -> tuple[Tensor]:
    return (torch.randint(64, (2, 7)),)


REAL = {
    "gpt2": Case(gpt2, tokens),
    "llama": Case(llama, tokens),
    "swin": Case(swin, images),
    "resnet": Case(resnet, images),
}
CASES = MODELS | REAL


def trained(model: nn.Module, inputs: tuple[Any, ...]) -> nn.Module:
    """Move every parameter and buffer away from where it started, as training does."""
    model.train()(*inputs)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


def saved(folder: Path, name: str = "residual", budget: Any = 0.5, **options: Any) -> tuple[nn.Module, tuple[Any, ...]]:
    """Save a compressed model, and return it with inputs for it."""
    model, inputs = CASES[name].build(), CASES[name].inputs()
    compressed(model, budget, **options)
    shapeshift.save(trained(model, inputs), folder)
    return model, inputs


def assert_restored(fresh: nn.Module, model: nn.Module, inputs: tuple[Any, ...]) -> None:
    assert_close(tensors(fresh.eval()(*inputs)), tensors(model(*inputs)), "identical")
    assert_close(dict(fresh.state_dict()), dict(model.state_dict()), "identical")
    # The deviations that a fresh model started with are its own; the rest of the plan is the file's.
    for ours, theirs in zip(require_shared(fresh).plan.groups, require_shared(model).plan.groups, strict=True):
        assert (ours.name, ours.layout) == (theirs.name, theirs.layout)
        assert [(w.names, w.shape) for w in ours.weights] == [(w.names, w.shape) for w in theirs.weights]
    flags = [(name, parameter.requires_grad) for name, parameter in model.named_parameters()]
    assert [(name, parameter.requires_grad) for name, parameter in fresh.named_parameters()] == flags


@pytest.mark.parametrize("budget", BUDGETS)
@every_method
@pytest.mark.parametrize("name", MODELS)
def test_a_fresh_model_is_restored_whatever_the_method_was(
    name: str, options: dict[str, str], budget: float, tmp_path: Path
) -> None:
    model, inputs = saved(tmp_path, name, budget, **options)
    fresh = MODELS[name].build()
    assert shapeshift.load(tmp_path, fresh) is fresh
    assert_restored(fresh, model, inputs)
    assert_close(
        dict(shapeshift.materialize(fresh).state_dict()), dict(shapeshift.materialize(model).state_dict()), "identical"
    )


@pytest.mark.parametrize("name", REAL)
def test_models_of_timm_and_transformers_are_restored(name: str, tmp_path: Path) -> None:
    model, inputs = saved(tmp_path, name)
    assert_restored(shapeshift.load(tmp_path, REAL[name].build()), model, inputs)


@pytest.mark.parametrize("name", CASES)
def test_a_model_on_the_meta_device_is_restored_on_the_cpu(name: str, tmp_path: Path) -> None:
    model, inputs = saved(tmp_path, name)
    with torch.device("meta"):
        fresh = CASES[name].build()
    shapeshift.load(tmp_path, fresh)
    assert not any(tensor.is_meta for tensor in [*fresh.parameters(), *fresh.buffers()])
    assert_restored(fresh, model, inputs)


def test_a_model_compressed_on_the_meta_device_is_restored(tmp_path: Path) -> None:
    model, inputs = saved(tmp_path)
    fresh = shapeshift.compress(Residual(), 0.5).to("meta")
    assert_restored(shapeshift.load(tmp_path, fresh), model, inputs)


def test_a_model_compressed_by_the_same_plan_is_restored(tmp_path: Path) -> None:
    model, inputs = saved(tmp_path)
    fresh = shapeshift.compress(Residual(), 0.5)
    assert_restored(shapeshift.load(tmp_path, fresh), model, inputs)


def test_a_model_compressed_by_another_plan_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    refuses(tmp_path, shapeshift.compress(Residual(), 0.4), "another plan.*materialize")


@every_method
def test_a_plan_survives_json(options: dict[str, str]) -> None:
    config = shapeshift.Config(**options, exclude=("head",), seed=3)
    plan = shapeshift.plan_compression(Residual(), 0.5, config)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_a_tied_weight_that_is_not_generated_is_stored_once_and_stays_tied(tmp_path: Path) -> None:
    model, inputs = saved(tmp_path, "gpt2", exclude=["lm_head"])
    names = {found["name"] for found in described(tmp_path)["tensors"]}
    assert {"transformer.wte.weight", "lm_head.weight"} - names == {"lm_head.weight"}
    for device in ("cpu", "meta"):
        with torch.device(device):
            fresh = gpt2()
        shapeshift.load(tmp_path, fresh)
        assert fresh.lm_head.weight is fresh.transformer.wte.weight
        assert_restored(fresh, model, inputs)


def test_buffers_that_overlap_or_are_not_contiguous_are_saved(tmp_path: Path) -> None:
    def build() -> nn.Module:
        model = mlp()
        numbers = torch.arange(12.0)
        model.register_buffer("all", numbers)
        model.register_buffer("some", numbers[3:7])
        model.register_buffer("turned", torch.arange(6.0).view(2, 3).t())
        model.register_buffer("spread", torch.ones(1).expand(5))
        model.register_buffer("empty", torch.empty(0))
        return model

    model = shapeshift.compress(build(), 0.5)
    shapeshift.save(model, tmp_path)
    fresh = build()
    fresh.get_buffer("turned").zero_()
    fresh.spread = torch.zeros(5)
    shapeshift.load(tmp_path, fresh)
    assert_close(dict(fresh.state_dict()), dict(model.state_dict()), "identical")


def test_frozen_parameters_are_frozen_again(tmp_path: Path) -> None:
    model = mlp()
    model[0].weight.requires_grad_(False)
    shapeshift.compress(model, 0.5)
    shapeshift.save(model, tmp_path)
    fresh = shapeshift.load(tmp_path, mlp())
    assert [name for name, parameter in fresh.named_parameters() if not parameter.requires_grad] == ["0.weight"]
    assert shapeshift.count_parameters(fresh) == shapeshift.count_parameters(model)


def test_the_models_own_dtype_is_kept(tmp_path: Path) -> None:
    model, (inputs,) = saved(tmp_path)
    fresh = shapeshift.load(tmp_path, Residual().double())
    assert {p.dtype for p in fresh.parameters()} == {torch.float64}
    assert_close(fresh.eval()(inputs.double()).float(), model(inputs), "reordered")

    half = shapeshift.load(tmp_path, Residual()).bfloat16().eval()
    shapeshift.save(half, tmp_path / "half")
    again = shapeshift.load(tmp_path / "half", Residual().bfloat16()).eval()
    assert torch.equal(again(inputs.bfloat16()), half(inputs.bfloat16()))


def test_a_wrapper_is_left_out(tmp_path: Path) -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    inputs = MODELS["residual"].inputs()
    model = trained(shapeshift.compress(Residual(), 0.5), inputs)
    shapeshift.save(Wrapper(model), tmp_path)
    assert_restored(shapeshift.load(tmp_path, Residual()), model, inputs)

    class Larger(Wrapper):
        def __init__(self, module: nn.Module) -> None:
            super().__init__(module)
            self.head = nn.Linear(2, 2)

    with pytest.raises(ModelError, match=r"only module \(Residual\) is compressed"):
        shapeshift.save(Larger(model), tmp_path)


def test_a_layer_that_was_replaced_is_named(tmp_path: Path) -> None:
    model = shapeshift.compress(resnet(), 0.5)
    model.fc = nn.Linear(8, 4)
    with pytest.raises(ModelError, match=r"fc.weight was generated when .*: the layer was replaced"):
        shapeshift.save(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_version_1_is_loaded(tmp_path: Path) -> None:
    folder = Path(__file__).parents[1] / "golden" / "checkpoint_1"
    loaded = shapeshift.load(folder, Residual()).eval()
    torch.manual_seed(5)
    expected = [
        0.0009112656116485596,
        -0.2075602412223816,
        -0.3834136128425598,
        0.4008151888847351,
        0.01110103353857994,
    ]
    assert_close(loaded(torch.randn(1, 3, 8, 8)), torch.tensor([expected]), "reordered")
    errors = require_shared(loaded).fit_errors
    assert errors["branches.0.2.weight"] == 0.6785939335823059
    shapeshift.save(loaded, tmp_path)
    again = shapeshift.load(tmp_path, Residual())
    assert_close(dict(again.state_dict()), dict(loaded.state_dict()), "identical")
    assert require_shared(again).fit_errors == pytest.approx(errors, rel=1e-6)
    assert (tmp_path / PLAN_FILE).stat().st_size < (folder / PLAN_FILE).stat().st_size / 2


@pytest.mark.parametrize("budget", ["25%", "60%"])
def test_the_size_is_that_of_the_budget(budget: str, tmp_path: Path) -> None:
    model = shapeshift.compress(resnet(), budget)
    shapeshift.save(model, tmp_path)
    parameters = 4 * shapeshift.count_parameters(model)
    assert parameters <= (tmp_path / TENSORS_FILE).stat().st_size <= 1.01 * parameters
    assert (tmp_path / PLAN_FILE).stat().st_size <= 30_000
    assert sorted(os.listdir(tmp_path)) == sorted([TENSORS_FILE, PLAN_FILE])


def test_saving_over_a_checkpoint_replaces_it_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = saved(tmp_path)
    other = trained(shapeshift.compress(Residual(), 0.5), inputs)

    def fail(tensors: Any, path: Path, **_: Any) -> None:
        path.write_bytes(b"half of it")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "save_file", fail)
        with pytest.raises(OSError, match="no space"):
            shapeshift.save(other, tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([TENSORS_FILE, PLAN_FILE])
    assert_restored(shapeshift.load(tmp_path, Residual()), model, inputs)

    shapeshift.save(other, tmp_path)
    assert_restored(shapeshift.load(tmp_path, Residual()), other, inputs)


class Remembering(nn.Linear):
    """A layer with state that is no tensor."""

    def get_extra_state(self) -> Any:
        return {"seen": 3}

    def set_extra_state(self, state: Any) -> None:
        assert state == {"seen": 3}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (mlp, "Sequential is not compressed; call shapeshift.compress"),
        (lambda: shapeshift.compress(mlp().to("meta"), 0.5), "on the meta device"),
        (lambda: shapeshift.compress(nn.Sequential(Remembering(8, 8)), 0.5), "0._extra_state is state of type dict"),
    ],
)
def test_what_cannot_be_saved_is_refused(build: Callable[[], nn.Module], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        shapeshift.save(build(), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def refuses(folder: Path, model: nn.Module, message: str) -> str:
    """Assert that loading fails with a message, and leaves the model as it was."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    classes = [type(module) for module in model.modules()]
    with pytest.raises(CheckpointError, match=message) as raised:
        shapeshift.load(folder, model)
    assert_close(dict(model.state_dict()), before, "identical")
    assert {name: id(p) for name, p in model.named_parameters(remove_duplicate=False)} == {
        name: id(p) for name, p in parameters.items()
    }
    assert [type(module) for module in model.modules()] == classes
    return str(raised.value)


def cut(name: str, at: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(at * len(content)) if isinstance(at, float) else at])

    return damage


def flip(name: str, at: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[at] ^= 0xFF
        (folder / name).write_bytes(content)

    return damage


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def foreign_tensors(folder: Path) -> None:
    save_file({"weight": torch.zeros(3)}, folder / TENSORS_FILE)


def described(folder: Path) -> dict[str, Any]:
    """Return the description that a plan file holds deflated."""
    return inflated(json.loads((folder / PLAN_FILE).read_text())["content"])


def edit(change: Callable[[dict[str, Any]], Any], sealed: bool = True) -> Callable[[Path], None]:
    """Change the plan file's content, and the checksum with it, so that only what it says is wrong."""

    def damage(folder: Path) -> None:
        stamp = json.loads((folder / PLAN_FILE).read_text())
        description = {**stamp, **inflated(stamp.pop("content"))}
        change(description)
        stamp = {name: description.pop(name) for name in stamp if name in description}
        stamp["content"] = base64.b85encode(zlib.compress(json.dumps(description).encode())).decode()
        if sealed:
            stamp.pop("sha256")
            stamp["sha256"] = files.seal(stamp, folder / TENSORS_FILE)
        (folder / PLAN_FILE).write_text(json.dumps(stamp))

    return damage


def edit_tensors(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    """Change the tensors, and the checksum with them, so that only what they hold is wrong."""

    def damage(folder: Path) -> None:
        content = unpacked(load_file(folder / TENSORS_FILE), described(folder)["tensors"])
        change(content)
        kept = kept_tensors(content, {})
        save_file(packed(content, kept), folder / TENSORS_FILE)
        edit(lambda plan: plan.update(tensors=directory(kept)))(folder)

    return damage


def rewrite(folder: Path, content: Any = None, cut: float | None = None) -> None:
    """Replace the deflated description, or cut it, and seal the files."""
    stamp = json.loads((folder / PLAN_FILE).read_text())
    if cut is None:
        stamp["content"] = content
    else:
        stamp["content"] = stamp["content"][: int(cut * len(stamp["content"])) if isinstance(cut, float) else cut]
    (folder / PLAN_FILE).write_text(json.dumps(stamp))


def group(plan: dict[str, Any]) -> dict[str, Any]:
    return plan["plan"]["groups"][1]


def repeat_a_weight(plan: dict[str, Any]) -> None:
    group(plan)["weights"].append(group(plan)["weights"][0])
    group(plan)["layout"]["draws"].append(group(plan)["layout"]["draws"][0])


DAMAGES = {
    "no directory": (lambda folder: folder.rename(folder.with_name("elsewhere")), "does not exist; give the directory"),
    "no plan": (lambda folder: (folder / PLAN_FILE).unlink(), "shapeshift.json does not exist"),
    "no tensors": (lambda folder: (folder / TENSORS_FILE).unlink(), "model.safetensors does not exist"),
    **{f"tensors cut at {at}": (cut(TENSORS_FILE, at), "damaged or not a safe") for at in (0, 4, 8, 99, 0.3, 0.7, -1)},
    **{
        f"header flipped at {at}": (flip(TENSORS_FILE, at), "model.safetensors (is|and)")
        for at in (0, 5, 7, 8, 9, 40, 200)
    },
    **{f"numbers flipped at {at}": (flip(TENSORS_FILE, at), "do not belong together") for at in (-1, -2000)},
    "foreign tensors": (foreign_tensors, "do not belong together"),
    "tensors that are a pickle": (lambda folder: torch.save({}, folder / TENSORS_FILE), "damaged or not a safe"),
    **{f"plan cut at {at}": (cut(PLAN_FILE, at), "it is not JSON") for at in (0, 1, 100, 0.5, 0.9, -3)},
    "binary plan": (write(PLAN_FILE, bytes(range(256))), "it is not JSON"),
    "plan too deep": (write(PLAN_FILE, b"[" * 100_000), "it is not JSON"),
    **{
        f"foreign JSON {content}": (write(PLAN_FILE, content.encode()), "was not written by shapeshift.save")
        for content in ("{}", "[]", "null", "3", '{"architectures": ["BertModel"]}', '{"format": "pt"}')
    },
    "newer version": (edit(lambda plan: plan.update(format_version=3)), "format version 3.*Upgrade shapeshift"),
    "a content that is no text": (
        lambda folder: rewrite(folder, content=5),
        "cannot be read",
    ),
    **{
        f"a content cut at {at}": (lambda folder, at=at: rewrite(folder, cut=at), "cannot be read")
        for at in (0, 1, 0.3, 0.7, -1)
    },
    **{
        f"a directory with {fields}": (
            edit(lambda plan, fields=fields: plan["tensors"][0].update(fields)),
            "cannot be unpacked",
        )
        for fields in ({"kind": "float64"}, {"kind": "packed_8"}, {"kind": "save"}, {"shape": [-1]}, {"shape": [10**9]})
    },
    "a directory without an entry": (edit(lambda plan: plan["tensors"].pop()), "cannot be unpacked"),
    "no version": (edit(lambda plan: plan.pop("format_version")), "format version None"),
    "unknown generator": (
        edit(lambda plan: plan["plan"]["config"].update(combine="magic")),
        "unknown generator 'magic'",
    ),
    "unknown option": (edit(lambda plan: plan["plan"]["config"].update(magic=1)), r"unknown config fields \['magic'\]"),
    **{
        f"plan without {field}": (
            edit(lambda plan, field=field: plan.pop(field), sealed=field != "sha256"),
            f"cannot be read.*{field}",
        )
        for field in ("plan", "architecture", "aliases", "frozen", "non_persistent", "sha256")
    },
    "plan without groups": (edit(lambda plan: plan["plan"].pop("groups")), "cannot be read.*groups"),
    "groups of another kind": (edit(lambda plan: plan["plan"].update(groups=5)), "cannot be read"),
    "unknown dtype": (edit(lambda plan: group(plan)["weights"][0].update(dtype="Tensor")), "unknown dtype 'Tensor'"),
    "layout without draws": (edit(lambda plan: group(plan).update(layout={})), "cannot be read"),
    "layout of no size": (edit(lambda plan: group(plan)["layout"].update(store_size=-1)), "a store of -1 entries"),
    "layout of another size": (
        edit(lambda plan: group(plan)["layout"].update(store_size=10**15)),
        "a store of 10{15} entries",
    ),
    "a template elsewhere": (
        edit(lambda plan: group(plan)["layout"]["draws"][0].update(offset=1), sealed=False),
        "do not belong together",
    ),
    "another budget": (edit(lambda plan: plan["plan"].update(budget=7), sealed=False), "do not belong together"),
    "an endless budget": (edit(lambda plan: plan["plan"].update(budget=float("inf"))), "cannot be read"),
    "a weight twice": (edit(repeat_a_weight), "of one name"),
    "a weight without a name": (edit(lambda plan: group(plan)["weights"][0].update(names=[])), "not in the checkpoint"),
    "a template outside": (edit(lambda plan: group(plan)["layout"]["draws"][0].update(offset=10**6)), "damaged: its"),
    "a template before": (edit(lambda plan: group(plan)["layout"]["draws"][0].update(offset=-9)), "damaged: its"),
    "a template of words": (edit(lambda plan: group(plan)["layout"]["draws"][0].update(offset="x")), "damaged: its"),
    "an alias of nothing": (edit(lambda plan: plan["aliases"].update(a="b")), "refers to b, which"),
    "a weight of another shape": (
        edit(lambda plan: group(plan)["weights"][0].update(shape=[2, 2])),
        r"branches.0.2.weight is \(2, 2\) in the checkpoint and \(8, 8, 3, 3\) in the model",
    ),
    "an extra tensor": (
        edit_tensors(lambda tensors: tensors.update(more=torch.zeros(3))),
        r"more \(3,\) is in the checkpoint and not in the model",
    ),
    "a missing tensor": (
        edit_tensors(lambda tensors: tensors.pop("head.bias")),
        "head.bias is in the model and not in the checkpoint",
    ),
    "a missing store": (
        edit_tensors(lambda tensors: tensors.pop("shapeshift.5x8.store.0")),
        "shapeshift.5x8.store.0 is in the model and not in the checkpoint",
    ),
    "a tensor of another shape": (
        edit_tensors(lambda tensors: tensors.update({"head.bias": torch.zeros(7)})),
        r"head.bias is \(7,\) in the checkpoint and \(5,\) in the model",
    ),
    "a tensor of another kind": (
        edit_tensors(lambda tensors: tensors.update({"head.bias": torch.zeros(5, dtype=torch.int32)})),
        "head.bias is torch.int32 in the checkpoint and torch.float32 in the model",
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_or_foreign_file_is_refused_and_the_model_unchanged(kind: str, tmp_path: Path) -> None:
    damage, message = DAMAGES[kind]
    folder = tmp_path / "saved"
    saved(folder, mapping="shape", combine="wavg")
    damage(folder)
    refuses(folder, Residual(), message)


PAIRS = list(itertools.permutations(["mlp", "language", "recurrent", "resnet", "gpt2"], 2))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_another_architecture_is_refused_and_the_model_unchanged(
    ours: str, theirs: str, compressed: bool, tmp_path: Path
) -> None:
    saved(tmp_path, ours)
    model = CASES[theirs].build()
    if compressed:
        refuses(tmp_path, shapeshift.compress(model, 0.5), "compressed by another plan")
    else:
        message = refuses(tmp_path, model, "has another architecture.*They differ in:")
        assert type(CASES[ours].build()).__name__ in message
        assert type(model).__name__ in message
        assert 1 <= message.count("\n") <= 6


def test_ties_are_part_of_the_architecture(tmp_path: Path) -> None:
    saved(tmp_path, "language")
    refuses(tmp_path, Language(tied=False), "embedding.weight is tied as")


def test_a_scripted_model_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, "mlp")
    with warnings.catch_warnings(action="ignore"):  # scripting is deprecated
        scripted = torch.jit.script(mlp())
    with pytest.raises(ModelError, match="scripted module"):
        shapeshift.load(tmp_path, scripted)


def test_the_stores_of_one_group_take_one_dtype(tmp_path: Path) -> None:
    saved(tmp_path, "mlp")
    model = mlp()
    model[2].double()
    refuses(tmp_path, model, "share a store, but are torch.float32 on cpu and torch.float64 on cpu")
