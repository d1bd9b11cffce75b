"""The checks of timm's own tests of its models, on models that are compressed after they are built.

timm's package does not ship its tests, so its checks are rebuilt here: each compares a compressed model with the plain
model of the same weights. ``REFUSED`` lists what raises an error, with the reason, and may only shrink.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.models import create_feature_extractor, get_notrace_functions, get_notrace_modules
from timm.optim import param_groups_layer_decay
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torchvision.models.feature_extraction import get_graph_node_names

import shapeshift
from shapeshift.errors import GeneratedWeightError
from tests.models import gradients
from tests.tolerances import assert_close

pytestmark = [
    # torchvision on models whose nodes differ between training and evaluation, and torch on a resized table
    pytest.mark.filterwarnings("ignore:NOTE. The nodes obtained by tracing:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.searchsorted:UserWarning"),
    pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning"),
]

# Small models of eight families, with the arguments that make them so.
MODELS: dict[str, dict[str, Any]] = {
    "test_resnet": {},
    "test_vit": {},
    "test_convnext": {},
    "test_mambaout": {},
    "test_byobnet": {},
    "levit_128s": {"embed_dim": (32, 48, 64), "key_dim": 8, "num_heads": (2, 2, 2), "depth": (1, 1, 1), "img_size": 64},
    "swin_tiny_patch4_window7_224": {"embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2), "img_size": 56},
    "naflexvit_base_patch16_gap": {"embed_dim": 32, "depth": 3, "num_heads": 2},
}
WRITES = "writes a weight"
RESET = "writes each weight; model.shapeshift.reset_parameters() draws the shared parameters instead"
FORMAT = "tells formats apart by names of weights, which a compressed model's state dict does not have"
# For each check, the models that it is refused for, and the reason.
REFUSED: dict[str, dict[str, str]] = {
    "set_input_size": {"test_vit": WRITES, "swin_tiny_patch4_window7_224": WRITES},
    "init_weights": dict.fromkeys(
        ("test_resnet", "test_vit", "levit_128s", "swin_tiny_patch4_window7_224", "naflexvit_base_patch16_gap"), RESET
    ),
    "scale_head": dict.fromkeys(MODELS, WRITES),
    "filter_own_state": {"test_mambaout": FORMAT},
}


@functools.cache
def pristine(name: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    model = shapeshift.compress(timm.create_model(name, num_classes=5, **MODELS[name]), "60%", seed=0)
    return shapeshift.materialize(copy.deepcopy(model)), model


def images(model: Any, times: int = 1) -> Tensor:
    side = getattr(getattr(model, "patch_embed", None), "img_size", (64,))[0]
    return torch.randn(2, 3, times * side, times * side, generator=torch.Generator().manual_seed(1))


def evaluated(model: Any) -> Any:
    return model.eval()(images(model))


def forward(name: str, model: Any) -> Any:
    return evaluated(model)


def backward(name: str, model: Any) -> Any:
    torch.manual_seed(2)  # for dropped paths
    found = gradients(model, (images(model),))
    assert found.keys() == {parameter for parameter, _ in model.named_parameters()}
    plain, compressed = (dict(each.named_parameters()) for each in pristine(name))
    return {key: gradient for key, gradient in found.items() if key in plain and key in compressed}


def set_grad_checkpointing(name: str, model: Any) -> Any:
    model.set_grad_checkpointing(True)
    return backward(name, model)


def evaluate_after_a_step(name: str, model: Any) -> Any:
    with torch.no_grad():
        evaluated(model)  # some models keep what they read from weights until they are trained
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    torch.manual_seed(2)
    model(images(model)).square().sum().backward()
    optimizer.step()
    if shapeshift.is_compressed(model):
        plain = shapeshift.materialize(copy.deepcopy(model)).train()
        assert_close(evaluated(model), evaluated(plain), "identical")
    return None


def trace(name: str, model: Any) -> Any:
    names = {
        "leaf_modules": list(get_notrace_modules()),
        "autowrap_functions": list(get_notrace_functions()),
    }
    _, nodes = get_graph_node_names(model.eval(), tracer_kwargs=names)
    extractor = create_feature_extractor(model, nodes[-1:]).eval()
    found = gradients(extractor, (images(model),))
    assert set(found) <= {parameter for parameter, _ in model.named_parameters()}
    return list(extractor(images(model)).values())


def set_input_size(name: str, model: Any) -> Any:
    if not hasattr(model, "set_input_size"):
        return None
    x = images(model, times=2)
    model.set_input_size(x.shape[-2:])
    return model.eval()(x)


def forward_intermediates(name: str, model: Any) -> Any:
    return model.eval().forward_intermediates(images(model), intermediates_only=True)


def prune_intermediate_layers(name: str, model: Any) -> Any:
    model.eval().prune_intermediate_layers([0])
    return model.forward_features(images(model))


def reset_classifier(name: str, model: Any) -> Any:
    torch.manual_seed(2)
    model.reset_classifier(3)
    outputs = [evaluated(model)]
    model.reset_classifier(0)
    return [*outputs, evaluated(model)]


def reparameterize(name: str, model: Any) -> Any:
    return evaluated(reparameterize_model(model.eval()))


def filter_own_state(name: str, model: Any) -> Any:
    convert = getattr(sys.modules[type(pristine(name)[0]).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        model.load_state_dict(convert(dict(model.state_dict()), model))
    return evaluated(model)


def filter_plain_state(name: str, model: Any) -> Any:
    plain = pristine(name)[0]
    convert = getattr(sys.modules[type(plain).__module__], "checkpoint_filter_fn", None)
    return None if convert is None else convert(dict(plain.state_dict()), model)


def init_weights(name: str, model: Any) -> Any:
    if hasattr(model, "init_weights"):
        model.init_weights()


def scale_head(name: str, model: Any) -> Any:
    with torch.no_grad():
        head = model.get_classifier()
        for part in head if isinstance(head, tuple) else (head,):
            (part.linear if hasattr(part, "linear") else part).weight.mul_(0.5)


def layer_decay(name: str, model: Any) -> Any:
    if hasattr(model, "group_matcher"):
        groups = param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.75)
        held = [parameter for group in groups for parameter in group["params"]]
        assert {id(parameter) for parameter in held} == {id(parameter) for parameter in model.parameters()}


CHECKS: list[Callable[[str, Any], Any]] = [
    forward,
    backward,
    set_grad_checkpointing,
    evaluate_after_a_step,
    trace,
    set_input_size,
    forward_intermediates,
    prune_intermediate_layers,
    reset_classifier,
    reparameterize,
    filter_own_state,
    filter_plain_state,
    init_weights,
    scale_head,
    layer_decay,
]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_compressed_model_passes_the_checks_of_timm(check: Callable[[str, Any], Any], name: str) -> None:
    plain, compressed = (copy.deepcopy(model) for model in pristine(name))
    expected = check(name, plain)
    if name in REFUSED.get(check.__name__, {}):
        with pytest.raises(
            (GeneratedWeightError, RuntimeError), match=r"is generated from shared parameters|Missing key"
        ):
            check(name, compressed)
        if check in (set_input_size, init_weights):
            assert_close(evaluated(compressed), evaluated(copy.deepcopy(pristine(name)[0])), "identical")
    else:
        found = check(name, compressed)
        reason = "reordered gradient" if isinstance(expected, dict) else "reordered"
        assert_close(tree_leaves(found), tree_leaves(expected), reason)


@pytest.mark.parametrize("feature_cls", ["list", "hook", "getter"])
@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("test_")])
def test_a_feature_extractor_is_compressed(name: str, feature_cls: str) -> None:
    if name == "test_vit" and feature_cls != "getter":
        pytest.skip("timm extracts features of transformers by their own method")
    extractor = timm.create_model(name, features_only=True, feature_cls=feature_cls).eval()
    x = torch.randn(1, 3, *([160] * 2 if name == "test_vit" else [64] * 2))
    shapeshift.compress(extractor, "60%", seed=0)
    assert_close(extractor(x), shapeshift.materialize(copy.deepcopy(extractor)).eval()(x), "identical")


def test_every_refusal_is_of_a_check_and_a_model() -> None:
    assert set(REFUSED) <= {check.__name__ for check in CHECKS}
    assert all(set(models) <= set(MODELS) for models in REFUSED.values())
