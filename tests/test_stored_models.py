"""What holds for every generator with every format of its store."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import shapeshift
from shapeshift.generators import GENERATORS
from shapeshift.recompute import set_recompute
from shapeshift.store_format import STORE_FORMATS
from shapeshift.surgery.roots import require_shared
from tests.methods import compressed
from tests.models import MODELS, Residual, gradients
from tests.tolerances import assert_close

every_generator = pytest.mark.parametrize("combine", list(GENERATORS))
every_format = pytest.mark.parametrize("store", list(STORE_FORMATS))
rounding_formats = pytest.mark.parametrize("store", [name for name in STORE_FORMATS if name != "float32"])
INPUTS = MODELS["residual"].inputs()


def build(combine: str, store: str, budget: float = 0.7, **options: Any) -> nn.Module:
    torch.manual_seed(1)
    model = compressed(Residual(), budget, combine=combine, store=store, seed=3, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


def rounded(model: nn.Module) -> nn.Module:
    """Return a copy that keeps its stores as they are, rounded before."""
    twin = copy.deepcopy(model)
    for generator in require_shared(twin).generators():
        for name in generator.stored_names():
            with torch.no_grad():
                parameter = generator.get_parameter(name)
                parameter.copy_(generator.store_format.round(parameter))
        generator.store_format = STORE_FORMATS["float32"]
    return twin


@every_format
@every_generator
def test_weights_are_made_of_rounded_stores_and_gradients_pass_straight_through(combine: str, store: str) -> None:
    model = build(combine, store)
    twin = rounded(model)
    assert_close(model(*INPUTS), twin(*INPUTS), "identical")
    expected = gradients(twin, INPUTS)
    assert_close(gradients(model, INPUTS), expected, "identical")
    assert_close(gradients(set_recompute(model), INPUTS), expected, "identical")
    for group in require_shared(model).generators():
        names = group.stored_names()
        large = sum(group.get_parameter(name).numel() for name in names)
        assert large >= 0.5 * sum(parameter.numel() for parameter in group.parameters())


@rounding_formats
@every_generator
def test_copies_keep_the_format(combine: str, store: str) -> None:
    model = build(combine, store)
    expected = model(*INPUTS)
    other = build(combine, store, recompute=True)
    other.load_state_dict(model.state_dict())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), other):
        assert_close(twin(*INPUTS), expected, "identical")
        assert_close(dict(twin.state_dict()), dict(model.state_dict()), "identical")
    assert_close(shapeshift.materialize(copy.deepcopy(model))(*INPUTS), expected, "identical")
    with torch.no_grad():
        assert_close(
            model.branches[0][2].weight.clone(), shapeshift.materialize(model).branches[0][2].weight, "identical"
        )


@every_format
@every_generator
def test_a_loaded_model_gives_the_outputs_of_the_saved_one(combine: str, store: str, tmp_path: Path) -> None:
    model = build(combine, store)
    assert shapeshift.save(model, tmp_path) is None
    loaded = shapeshift.load(tmp_path, Residual()).eval()
    assert require_shared(loaded).plan.config == require_shared(model).plan.config
    assert_close(loaded(*INPUTS), model(*INPUTS), "identical")
    assert_close(gradients(loaded, INPUTS), gradients(model, INPUTS), "identical")
    shapeshift.save(loaded, tmp_path / "again")
    for file in ("model.safetensors", "shapeshift.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / file).read_bytes()


@rounding_formats
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_models_of_other_dtypes_are_saved_and_loaded(store: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = build("wavg", store).to(dtype)
    shapeshift.save(model, tmp_path)
    loaded = shapeshift.load(tmp_path, Residual().to(dtype)).eval()
    for ours, theirs in zip(require_shared(loaded).generators(), require_shared(model).generators(), strict=True):
        found, expected = (group.generate(range(len(group.weights))) for group in (ours, theirs))
        assert_close(found, expected, "identical")


@rounding_formats
@every_generator
def test_a_model_is_rounded_after_training(combine: str, store: str, tmp_path: Path) -> None:
    model = build(combine, "float32")
    before = model(*INPUTS)
    errors = shapeshift.save(model, tmp_path, store=store)
    assert errors is not None
    assert_close(model(*INPUTS), before, "identical")
    loaded = shapeshift.load(tmp_path, Residual()).eval()
    assert require_shared(loaded).plan.config.store == store
    found = {
        weight.name: ((rounded - own).norm() / own.norm()).item()
        for rounding, group in zip(require_shared(loaded).generators(), require_shared(model).generators(), strict=True)
        for index, weight in enumerate(group.weights)
        for rounded, own in [(rounding.generate([index])[0], group.generate([index])[0])]
    }
    assert_close(found, errors, "reordered")
    assert all(0 < error < {"bfloat16": 1e-2, "float16": 1e-3}.get(store, 0.4) for error in errors.values())


def test_what_is_not_generated_is_kept_in_16_bits(tmp_path: Path) -> None:
    model = build("wavg", "float32", rest="bfloat16")
    own = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    shapeshift.save(model, tmp_path)
    loaded = shapeshift.load(tmp_path, Residual())
    buffers = dict(model.named_buffers())
    for name, tensor in [*loaded.named_parameters(), *loaded.named_buffers()]:
        if name in buffers:
            assert torch.equal(tensor, buffers[name])
        elif name.startswith("shapeshift."):
            assert torch.equal(tensor, own[name])
        else:
            assert torch.equal(tensor, own[name].bfloat16().float())
    shapeshift.save(loaded, tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


@rounding_formats
def test_the_error_of_a_fit_counts_the_rounding(store: str) -> None:
    torch.manual_seed(0)
    plain = Residual()
    model = shapeshift.compress(copy.deepcopy(plain), 1.0, init="fit", store=store)
    for group in shapeshift.report(model).groups:
        for weight in group.weights:
            wanted = plain.get_parameter(weight.name).detach()
            found = shapeshift.materialize(copy.deepcopy(model)).get_parameter(weight.name).detach()
            if wanted.norm() > 0:
                assert weight.error > 1e-5
                assert_close(weight.error, ((found - wanted).norm() / wanted.norm()).item(), "reordered")


@pytest.mark.parametrize(
    ("combine", "store", "recompute", "backend"),
    [
        ("wavg", "int6", False, "inductor"),
        ("wavg", "bfloat16", False, "inductor"),
        ("hypernetwork", "int8", True, "aot_eager"),
    ],
)
def test_compiled_models_round_as_well(combine: str, store: str, recompute: bool, backend: str) -> None:
    model = build(combine, store, recompute=recompute)
    expected, slopes = model(*INPUTS), gradients(model, INPUTS)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend)
    assert_close(compiled(*INPUTS), expected, "compiled")
    compiled(*INPUTS)
    assert_close(
        gradients(compiled, INPUTS), {f"_orig_mod.{name}": slope for name, slope in slopes.items()}, "compiled"
    )


def test_training_lowers_the_loss_with_rounded_stores_and_noise() -> None:
    for noise in (False, True):
        model = build("wavg", "int4", store_noise=noise).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        losses = []
        for _ in range(8):
            optimizer.zero_grad()
            loss = model(*INPUTS).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        assert torch.equal(model.eval()(*INPUTS), model(*INPUTS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"store": "int5"}, 'store must be "float32" or "bfloat16" or "float16" or "int8" or "int6" or "int4", not'),
        ({"rest": "int8"}, 'rest must be "float32" or "bfloat16" or "float16", not'),
        ({"store_noise": 1}, "store_noise must be True or False, not 1"),
    ],
)
def test_unknown_formats_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(shapeshift.ConfigError, match=message):
        shapeshift.Config(**options)
    if "store_noise" not in options:
        with pytest.raises(shapeshift.ConfigError, match=message):
            shapeshift.save(build("wavg", "float32"), tmp_path / "new", **options)
        assert not (tmp_path / "new").exists()


def test_a_generator_that_is_made_for_a_layout_has_the_format() -> None:
    group = require_shared(build("wavg", "float32")).generators()[0]
    twin = type(group)(group.weights, group.layout, shapeshift.Config(store="int8", store_noise=True))
    assert (twin.store_format, twin.store_noise) == (STORE_FORMATS["int8"], True)
