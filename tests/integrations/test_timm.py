"""Compressed models by timm's own ways: its names, feature extractors, optimizer groups, checkpoints and scripts."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import get_pretrained_cfg, resolve_model_input_args, save_for_hf
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

import shapeshift
from shapeshift.generators import GENERATORS
from shapeshift.integrations import timm as integration
from shapeshift.integrations.timm import compressed
from shapeshift.integrations.timm.__main__ import main as run_script
from shapeshift.integrations.timm.networks import NETWORKS
from tests.models import gradients
from tests.tolerances import assert_close

SMALL_NETWORKS = {
    "wrn_28_10": {"depth": 10, "width": 0.5},
    "cifar_resnet56": {"depth": 8, "width": 0.5},
    "cifar_vgg16": {"depth": 11, "width": 0.1},
    "cifar_densenet40": {"depth": 10, "growth": 4},
    "cifar_googlenet": {"width": 0.1},
}
SCRIPT = """
import argparse
import timm, torch
from timm.models import load_checkpoint, resume_checkpoint
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import CheckpointSaver, ModelEmaV3, ParseKwargs

parser = argparse.ArgumentParser()
parser.add_argument("--model")
parser.add_argument("--num-classes", type=int)
parser.add_argument("--drop", type=float, default=0.0)
parser.add_argument("--gp")
parser.add_argument("--model-kwargs", nargs="*", default={}, action=ParseKwargs)
parser.add_argument("--initial-checkpoint", default="")
parser.add_argument("--resume", default="")
parser.add_argument("--epochs", type=int)
parser.add_argument("--output")
parser.add_argument("--seed", type=int)
args = parser.parse_args()

torch.manual_seed(args.seed)
model = timm.create_model(
    args.model, pretrained=False, num_classes=args.num_classes, drop_rate=args.drop, global_pool=args.gp,
    scriptable=False, checkpoint_path=args.initial_checkpoint, **args.model_kwargs,
)
optimizer = create_optimizer_v2(model, "adamw", lr=1e-2, weight_decay=0.05)
ema = ModelEmaV3(model, decay=0.9)
start = 0
if args.resume:
    start = resume_checkpoint(model, args.resume, optimizer=optimizer)
    load_checkpoint(ema.module, args.resume, use_ema=True)
schedule, _ = create_scheduler_v2(optimizer, "cosine", num_epochs=2, warmup_epochs=0)
schedule.step(start)
saver = CheckpointSaver(model, optimizer, args=args, model_ema=ema, checkpoint_dir=args.output)
for epoch in range(start, args.epochs):
    generator = torch.Generator().manual_seed(epoch)
    for step in range(2):
        x = torch.randn(4, 3, 32, 32, generator=generator)
        y = torch.randint(args.num_classes, (4,), generator=generator)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        ema.update(model, step=2 * epoch + step + 1)
    saver.save_checkpoint(epoch, metric=epoch)
    schedule.step(epoch + 1)
print(type(model).__name__, sum(parameter.numel() for parameter in model.parameters()))
"""


def images(side: int, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(3))


def materialized(model: nn.Module) -> nn.Module:
    # torch copies a traced module into training mode.
    return shapeshift.materialize(copy.deepcopy(model)).train(model.training)


def test_every_model_of_timm_has_a_compressed_form() -> None:
    names = integration.model_names()
    assert {"resnet50", "vit_base_patch16_224", "wrn_28_10", "cifar_resnet110"} <= set(names)
    assert set(timm.list_models("shapeshift_*")) == {f"shapeshift_{name}" for name in names}
    assert len(names) > 1000
    assert integration.register_models() == []
    assert callable(compressed.shapeshift_resnet50)  # type: ignore[attr-defined]


def test_a_model_that_is_registered_later_gets_a_compressed_form_by_another_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for table in ("_model_entrypoints", "_model_to_module", "_module_to_models", "_model_with_tags"):
        registry = getattr(timm.models._registry, table)
        monkeypatch.setattr(timm.models._registry, table, copy.copy(registry))

    def a_model_of_my_own(pretrained: bool = False, **options: Any) -> nn.Module:
        return timm.create_model("test_resnet", pretrained, **options)

    a_model_of_my_own.__module__ = "tests"
    timm.models.register_model(a_model_of_my_own)
    assert integration.register_models() == ["shapeshift_a_model_of_my_own"]
    model = timm.create_model("shapeshift_a_model_of_my_own", budget="25%", num_classes=3)
    assert model(images(32)).shape == (2, 3)


def test_a_compressed_form_knows_the_weights_and_the_data_of_its_model() -> None:
    plain, compressed = (get_pretrained_cfg(f"{prefix}vit_base_patch16_224") for prefix in ("", "shapeshift_"))
    assert plain is not None
    assert plain.fixed_input_size
    assert plain.hf_hub_id
    assert compressed == dataclasses.replace(plain, architecture="shapeshift_vit_base_patch16_224")
    tagged = timm.list_models("shapeshift_resnet50*", pretrained=True)
    assert "shapeshift_resnet50.a1_in1k" in tagged
    assert tagged == [f"shapeshift_{name}" for name in timm.list_models("resnet50*", pretrained=True)]
    assert "shapeshift_resnet50" not in integration.model_names()


def test_no_option_of_the_config_is_an_argument_of_a_model_of_timm() -> None:
    options = {"budget", *(field.name for field in dataclasses.fields(shapeshift.Config))}
    modules = {timm.models.model_entrypoint(name).__module__ for name in timm.list_models() if "shapeshift" not in name}
    assert len(modules) > 80
    for module in modules:
        for name, found in vars(sys.modules[module]).items():
            if inspect.isclass(found) and issubclass(found, nn.Module) and found.__module__ == module:
                assert not options & set(inspect.signature(found.__init__).parameters), f"{module}.{name}"


@pytest.mark.parametrize(
    ("name", "options"),
    [("test_resnet", {"mapping": "shape"}), ("test_vit", {"combine": "emb", "exclude": ["head"]}), ("wrn_16_1", {})],
)
def test_create_model_builds_what_compress_makes_of_the_plain_model(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(1)
    plain = timm.create_model(name, num_classes=5, drop_rate=0.1)
    expected = shapeshift.compress(plain, "30%", seed=2, **options)
    torch.manual_seed(1)
    model = timm.create_model(f"shapeshift_{name}", num_classes=5, drop_rate=0.1, budget="30%", seed=2, **options)
    assert type(model) is type(expected)
    assert model.shapeshift.plan == expected.shapeshift.plan
    assert_close(model.state_dict(), expected.state_dict(), "identical")


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(shapeshift.BudgetError, match=r"needs a budget.*budget=\"25%\".*--model-kwargs budget=25%"):
        timm.create_model("shapeshift_test_resnet")
    with pytest.raises(shapeshift.BudgetError, match="the least for this model"):
        timm.create_model("shapeshift_test_resnet", budget=100)
    with pytest.raises(TypeError, match="no_such_option"):
        timm.create_model("shapeshift_test_resnet", budget="25%", no_such_option=1)


def test_a_bad_option_fails_before_weights_are_read() -> None:
    nowhere = {"file": "/nowhere/weights.pth"}
    for options in ({"combine": "nonsense"}, {"combine": "softmax"}, {"init": "warm"}):
        with pytest.raises(shapeshift.ConfigError, match=f"{options.get('combine', 'init')}"):
            timm.create_model("shapeshift_test_resnet", True, pretrained_cfg_overlay=nowhere, budget="25%", **options)
    with pytest.raises(FileNotFoundError):
        timm.create_model("shapeshift_test_resnet", True, pretrained_cfg_overlay=nowhere, budget="25%")


def test_pretrained_weights_are_fitted_unless_told_otherwise(tmp_path: Path) -> None:
    plain = timm.create_model("test_resnet").eval()
    weights = {"file": str(tmp_path / "weights.pth")}
    torch.save(plain.state_dict(), weights["file"])
    x = images(64)
    for name in ("shapeshift_test_resnet", "shapeshift_test_resnet.r160_in1k"):
        model = timm.create_model(name, True, pretrained_cfg_overlay=weights, budget="100%").eval()
        assert model.shapeshift.plan.config.init == "fit"
        assert_close(model(x), plain(x), "fitted")
        assert model.pretrained_cfg["architecture"] == "shapeshift_test_resnet"
        assert model.pretrained_cfg["tag"] == "r160_in1k"
    options = {"budget": "100%", "init": "random"}
    model = timm.create_model("shapeshift_test_resnet", True, pretrained_cfg_overlay=weights, **options).eval()
    assert model.shapeshift.plan.config.init == "random"
    assert (model(x) - plain(x)).abs().max() > 0.1


def test_pretrained_weights_are_adapted_to_other_images_and_classes(tmp_path: Path) -> None:
    plain = timm.create_model("test_resnet")
    torch.save(plain.state_dict(), tmp_path / "weights.pth")
    options: dict[str, Any] = {"pretrained_cfg_overlay": {"file": str(tmp_path / "weights.pth")}, "in_chans": 1}
    expected = timm.create_model("test_resnet", True, num_classes=0, **options).eval()
    model = timm.create_model("shapeshift_test_resnet", True, num_classes=0, budget="100%", **options).eval()
    assert_close(model(images(64, 1)), expected(images(64, 1)), "fitted")


@pytest.mark.parametrize("init", ["random", "fit"])
def test_models_that_timm_writes_for_others_are_built_again(init: str, tmp_path: Path) -> None:
    options = {
        "budget": "40%",
        "mapping": "random",
        "seed": 5,
        "init": init,
        "num_classes": 3,
        "depth": 8,
        "width": 0.5,
    }
    model = timm.create_model("shapeshift_cifar_resnet20", **options).eval()
    save_for_hf(model, tmp_path, safe_serialization=True)
    restored = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert restored.shapeshift.plan.config == model.shapeshift.plan.config
    assert_close(restored(images(32)), model(images(32)), "identical")


def test_scripts_of_timm_can_ask_for_the_input_before_they_build() -> None:
    arguments = resolve_model_input_args("shapeshift_test_vit", {"img_size": 96}, num_classes=3, budget="50%")
    model = timm.create_model(**arguments)
    assert model(images(96)).shape == (2, 3)


@pytest.mark.parametrize("extractor", ["list", "dict", "hook", "getter", "fx"])
def test_features_are_extracted_within_a_budget_for_the_extractor(extractor: str) -> None:
    options = {"features_only": True, "feature_cls": extractor, "out_indices": (1, 2, 3)}
    plain = timm.create_model("test_resnet", **options)
    model = timm.create_model("shapeshift_test_resnet", budget="50%", **options)
    dense = shapeshift.count_parameters(plain)
    assert 0.99 * (dense // 2) <= shapeshift.count_parameters(model) <= dense // 2
    assert model.feature_info.channels() == plain.feature_info.channels()
    found, expected = model.eval()(images(64)), materialized(model)(images(64))
    assert_close(found, expected, "identical")
    features = found.values() if isinstance(found, dict) else found
    assert [feature.shape[1] for feature in features] == plain.feature_info.channels()


def test_pretrained_features_are_fitted(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.pth")
    options = {"features_only": True, "pretrained_cfg_overlay": {"file": str(tmp_path / "weights.pth")}}
    plain = timm.create_model("test_resnet", True, **options).eval()
    model = timm.create_model("shapeshift_test_resnet", True, budget="100%", **options).eval()
    assert_close(model(images(64)), plain(images(64)), "fitted")


@pytest.mark.parametrize(("name", "side"), [("test_resnet", 64), ("test_vit", 160), ("test_convnext", 64)])
def test_intermediates_are_those_of_the_materialized_model_with_gradients_to_the_store(name: str, side: int) -> None:
    model = timm.create_model(f"shapeshift_{name}", budget="50%", num_classes=3).eval()
    found = model.forward_intermediates(images(side))
    assert_close(found, materialized(model).forward_intermediates(images(side)), "identical")
    model.zero_grad()
    sum(feature.square().mean() for feature in found[1]).backward()
    assert all(piece.grad is not None and piece.grad.abs().sum() > 0 for piece in model.shapeshift["all"].store)


@pytest.mark.parametrize(
    ("name", "side", "options"),
    [
        ("test_resnet", 64, {}),
        ("test_vit", 160, {}),
        ("test_resnet", 64, {"features_only": True}),
        ("cifar_resnet56", 32, {"depth": 14, "width": 0.25}),
        ("cifar_googlenet", 32, {"width": 0.1}),
    ],
    ids=str,
)
def test_checkpointed_gradients_are_those_without(name: str, side: int, options: dict[str, Any]) -> None:
    model = timm.create_model(f"shapeshift_{name}", budget="50%", **options)
    # Batch norm in evaluation mode: a block that is run again in training counts its batch twice.
    model.eval()
    expected = gradients(model, (images(side),))
    model.set_grad_checkpointing()
    recomputed = []
    handles = [
        module.register_forward_hook(lambda *_: recomputed.append(1))
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    found = gradients(model, (images(side),))
    assert_close(found, expected, "identical")
    assert len(recomputed) > len(handles)


@pytest.mark.parametrize("combine", list(GENERATORS))
@pytest.mark.parametrize("layer_decay", [None, 0.7])
def test_timm_decays_what_decay_is_meant_for(combine: str, layer_decay: float | None) -> None:
    options = {"upsample": "mask"} if combine in ("wavg", "avg") else {}
    model = timm.create_model("shapeshift_test_vit", budget="60%", combine=combine, **options)
    own = model.no_weight_decay()
    optimizer = create_optimizer_v2(model, "adamw", lr=0.1, weight_decay=0.05, layer_decay=layer_decay)
    found = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    decayed, spared = (set(group["params"]) for group in shapeshift.parameter_groups(model, 0.05))
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert set(found) == set(names)
    # timm's own list has tokens and positions, as far as they are still there.
    also = {parameter for parameter, name in names.items() if name in {"cls_token", "pos_embed", "reg_token"}}
    assert {parameter for parameter, decay in found.items() if decay == 0.05} == decayed - also
    assert {parameter for parameter, decay in found.items() if decay == 0.0} == spared | also
    assert own >= timm.create_model("test_vit").no_weight_decay()
    assert own & {name for name in names.values() if "store" in name} == set()


def test_a_model_that_is_compressed_by_hand_has_the_same_decay() -> None:
    layers = nn.Sequential(*(nn.Linear(32, 32) for _ in range(6)))
    model = shapeshift.compress(layers, "80%", combine="emb", max_templates=2)
    optimizer = create_optimizer_v2(model, "sgd", lr=0.1, weight_decay=0.05)
    decayed = [p for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]]
    assert {id(p) for p in decayed} == {id(p) for p in shapeshift.parameter_groups(model, 0.05)[0]["params"]}
    assert any(p.dim() > 1 for p in shapeshift.parameter_groups(model, 0.05)[1]["params"])


def test_a_compressed_dict_of_modules_lists_its_own_modules_only() -> None:
    model = nn.ModuleDict({"first": nn.Linear(8, 8), "second": nn.Linear(8, 8)})
    plain = {"keys": list(model.keys()), "values": list(model.values()), "items": list(model.items())}
    shapeshift.compress(model, "80%")
    assert {name: list(getattr(model, name)()) for name in plain} == plain
    assert list(model) == ["first", "second"]
    assert len(model) == 2
    assert model["first"] is plain["values"][0]
    assert list(shapeshift.materialize(model).items()) == plain["items"]


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_a_network_for_small_images_is_a_model_of_timm(name: str) -> None:
    options: dict[str, Any] = {**SMALL_NETWORKS[name], "num_classes": 7, "in_chans": 1}
    model = timm.create_model(name, **options).eval()
    core = type(model).__mro__[2](num_classes=7, in_channels=1, **SMALL_NETWORKS[name]).eval()
    assert core.load_state_dict(model.state_dict())
    x = images(32, 1)
    expected = core(x)
    assert_close(model(x), expected, "identical")
    assert_close(model.forward_head(model.forward_features(x)), expected, "identical")
    assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (2, model.num_features)
    assert model.get_classifier() is model.head
    assert model.get_submodule(model.pretrained_cfg["first_conv"]).in_channels == 1
    assert model.pretrained_cfg["input_size"] == (3, 32, 32)
    assert_close(pickle.loads(pickle.dumps(model))(x), expected, "identical")

    features, intermediates = model.forward_intermediates(x)
    assert_close(features, model.forward_features(x), "identical")
    assert [f.shape[1] for f in intermediates] == [info["num_chs"] for info in model.feature_info]
    assert [32 // f.shape[-1] for f in intermediates] == [info["reduction"] for info in model.feature_info]
    last = model.forward_intermediates(x, indices=1, intermediates_only=True)
    assert_close(last, intermediates[-1:], "identical")
    first = model.forward_intermediates(x, indices=[0], stop_early=True)
    assert_close(first, (intermediates[0], intermediates[:1]), "identical")

    extractor = timm.create_model(name, features_only=True, **options).eval()
    weights = {key.replace(".", "_", 1): value for key, value in model.state_dict().items()}
    kept = extractor.state_dict()
    extractor.load_state_dict({key: weights.get(key, model.state_dict().get(key)) for key in kept})
    assert_close(extractor(x), intermediates, "identical")

    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    model.reset_classifier(0)
    assert_close(model(x), model.forward_head(model.forward_features(x), pre_logits=True), "identical")
    with pytest.raises(ValueError, match="pools by the average"):
        model.reset_classifier(3, "max")


def test_networks_for_small_images_have_the_sizes_of_their_papers() -> None:
    millions = {
        name: shapeshift.count_parameters(integration.build(name)) / 1e6
        for name in ("wrn_28_10", "cifar_resnet56", "cifar_resnet110", "cifar_densenet40")
    }
    # Zagoruyko and Komodakis 2016, table 4; He et al. 2016, table 6; Huang et al. 2017, table 2.
    published = {"wrn_28_10": 36.5, "cifar_resnet56": 0.85, "cifar_resnet110": 1.7, "cifar_densenet40": 1.0}
    for name, size in published.items():
        digits = 2 if size < 1 else 1
        assert round(millions[name], digits) == size
    assert set(SMALL_NETWORKS) <= set(NETWORKS)


def test_a_script_of_timm_trains_averages_saves_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)

    def run(output: str, epochs: int, seed: int, *more: str) -> dict[str, Any]:
        folder = tmp_path / output
        folder.mkdir(exist_ok=True)
        words = ["--model", "shapeshift_cifar_resnet56", "--num-classes", "5", "--output", str(folder)]
        words += ["--epochs", str(epochs), "--seed", str(seed), *more]
        words += ["--model-kwargs", "budget=50%", "depth=8", "mapping=shape", "combine=emb", "exclude=['stem']"]
        monkeypatch.setattr(sys, "argv", list(sys.argv))
        monkeypatch.setattr(sys, "path", list(sys.path))
        run_script([str(script), *words])
        return torch.load(folder / "last.pth.tar", weights_only=False)

    whole = run("whole", 2, 0)
    run("halves", 1, 0)
    # What the model starts from on resuming is of no account: another seed.
    resumed = run("halves", 2, 9, "--resume", str(tmp_path / "halves" / "last.pth.tar"))
    for key in ("state_dict", "state_dict_ema"):
        assert_close(resumed[key], whole[key], "identical")
    assert_close(resumed["optimizer"]["state"], whole["optimizer"]["state"], "identical")
    difference = whole["state_dict"]["stem.weight"] - whole["state_dict_ema"]["stem.weight"]
    assert difference.abs().max() > 0
    assert any(name.startswith("shapeshift.") for name in whole["state_dict"])

    options = {"num_classes": 5, "depth": 8, "mapping": "shape", "combine": "emb", "exclude": ["stem"], "budget": "50%"}
    best = tmp_path / "whole" / "model_best.pth.tar"
    model = timm.create_model("shapeshift_cifar_resnet56", checkpoint_path=best, **options)
    assert_close(model.state_dict(), whole["state_dict_ema"], "identical")


def test_a_script_is_run_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("budget = '25%'\n")
    (tmp_path / "script.py").write_text(
        "import sys, timm, neighbour\n"
        "model = timm.create_model(sys.argv[1], budget=neighbour.budget)\n"
        "print(__name__, sys.argv[1:], type(model).__mro__[1].__module__, hasattr(model, 'shapeshift'))\n"
    )
    command = [sys.executable, "-m", "shapeshift.integrations.timm", str(tmp_path / "script.py"), "shapeshift_wrn_16_1"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == [
        "__main__",
        "['shapeshift_wrn_16_1']",
        "shapeshift.integrations.timm.networks",
        "True",
    ]


def test_a_script_that_is_not_there_is_named() -> None:
    with pytest.raises(shapeshift.ModelError, match=r"no script nowhere\.py.*python -m shapeshift\.integrations\.timm"):
        run_script(["nowhere.py"])
    with pytest.raises(shapeshift.ModelError, match="name a script"):
        run_script([])
