"""Families of timm and architectures of transformers, each through everything that a user does with a model."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

import shapeshift
from benchmarks.coverage import transformers_models
from benchmarks.coverage.small_configs import Scale
from benchmarks.coverage.transformers_models import make_inputs
from tests.models import gradients, tensors
from tests.structure import assert_looks_like
from tests.tolerances import assert_close

SMALL = {"img_size": 64}
# One small model of each family, which timm keeps in one module each: its name, options that make it smaller, and the
# side of its images.
TIMM: dict[str, tuple[str, dict[str, Any], int]] = {
    "beit": ("beit_base_patch16_224", {**SMALL, "embed_dim": 48, "depth": 2, "num_heads": 2}, 64),
    "byoanet": ("eca_halonext26ts", {}, 256),
    "byobnet": ("test_byobnet", {}, 64),
    "cait": ("cait_xxs24_224", {**SMALL, "depth": 2}, 64),
    "coat": ("coat_tiny", SMALL, 64),
    "convit": ("convit_tiny", SMALL, 64),
    "convnext": ("test_convnext", {}, 64),
    "crossvit": ("crossvit_tiny_240", {}, 240),
    "cspnet": ("cs3darknet_focus_s", {}, 64),
    "davit": ("davit_tiny", {"depths": (1, 1), "embed_dims": (24, 48), "num_heads": (2, 4)}, 64),
    "deit": ("deit_tiny_distilled_patch16_224", {**SMALL, "depth": 3}, 64),
    "densenet": ("densenet121", {"block_config": (2, 2, 2, 2)}, 64),
    "dpn": ("dpn68", {}, 64),
    "edgenext": ("edgenext_xx_small", {}, 64),
    "efficientformer": ("efficientformer_l1", {}, 224),
    "efficientformer_v2": ("efficientformerv2_s0", {}, 224),
    "efficientnet": ("test_efficientnet", {}, 64),
    "efficientvit_mit": ("efficientvit_b0", {}, 64),
    "efficientvit_msra": ("efficientvit_m0", {}, 224),
    "eva": ("eva02_tiny_patch14_224", {"img_size": 56, "depth": 2}, 56),
    "fasternet": ("fasternet_t0", {}, 64),
    "fastvit": ("fastvit_t8", {}, 64),
    "gcvit": ("gcvit_xxtiny", {}, 224),
    "ghostnet": ("ghostnet_050", {}, 64),
    "hardcorenas": ("hardcorenas_b", {}, 64),
    "hgnet": ("hgnetv2_b0", {}, 64),
    "hrnet": ("hrnet_w18_small", {}, 64),
    "inception_next": ("inception_next_atto", {}, 64),
    "levit": ("levit_128s", SMALL, 64),
    "mambaout": ("test_mambaout", {}, 64),
    "maxxvit": ("test_coatnet", SMALL, 64),
    "metaformer": ("poolformerv2_s12", {}, 64),
    "mlp_mixer": ("gmlp_ti16_224", SMALL, 64),
    "mobilenetv3": ("mobilenetv3_small_050", {}, 64),
    "mobilevit": ("mobilevit_xxs", {}, 64),
    "nfnet": ("test_nfnet", {}, 64),
    "pit": ("pit_ti_224", SMALL, 64),
    "pvt_v2": ("pvt_v2_b0", {}, 64),
    "regnet": ("regnetx_002", {}, 64),
    "repghost": ("repghostnet_050", {}, 64),
    "repvit": ("repvit_m1", {}, 64),
    "resnest": ("resnest14d", {}, 64),
    "resnet": ("test_resnet", {}, 64),
    "resnetv2": ("resnetv2_50x1_bit", {}, 64),
    "rexnet": ("rexnet_100", {}, 64),
    "selecsls": ("selecsls42", {}, 64),
    "senet": ("legacy_seresnet18", {}, 64),
    "sequencer": ("sequencer2d_s", {"layers": (1, 1, 1, 1)}, 64),
    "shvit": ("shvit_s1", {}, 64),
    "sknet": ("skresnet18", {}, 64),
    "starnet": ("starnet_s050", {}, 64),
    "swin_transformer": (
        "swin_tiny_patch4_window7_224",
        {**SMALL, "window_size": 4, "embed_dim": 24, "depths": (1, 2), "num_heads": (2, 4)},
        64,
    ),
    "swin_transformer_v2": (
        "swinv2_tiny_window8_256",
        {**SMALL, "window_size": 4, "embed_dim": 24, "depths": (1, 2), "num_heads": (2, 4)},
        64,
    ),
    "swin_transformer_v2_cr": (
        "swinv2_cr_tiny_224",
        {**SMALL, "window_size": 4, "embed_dim": 24, "depths": (1, 2), "num_heads": (2, 4)},
        64,
    ),
    "tiny_vit": ("tiny_vit_5m_224", {}, 224),
    "twins": ("twins_svt_small", {"depths": (1, 1, 2, 1), "embed_dims": (16, 32, 64, 128)}, 64),
    "visformer": ("visformer_tiny", SMALL, 64),
    "vision_transformer": ("test_vit", SMALL, 64),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", {**SMALL, "depth": 2}, 64),
    "vision_transformer_relpos": ("test_vit_relpos", SMALL, 64),
    "xcit": ("xcit_nano_12_p8_224", {**SMALL, "depth": 2}, 64),
}

# Architectures of transformers: how small they are made, if their heads are narrower than most, and options.
NARROW, WIDER = (Scale(width, layers=2, vocabulary=64) for width in (32, 16))
TRANSFORMERS: dict[str, tuple[Scale, dict[str, Any]]] = {
    "albert/AlbertForMaskedLM": (NARROW, {}),
    "bart/BartForConditionalGeneration": (NARROW, {}),
    "beit/BeitForImageClassification": (NARROW, {}),
    "bert/BertForMaskedLM": (NARROW, {}),
    "bloom/BloomForCausalLM": (NARROW, {"hidden_size": 1024}),
    "clip/CLIPModel": (NARROW, {}),
    "convnext/ConvNextForImageClassification": (NARROW, {}),
    "deberta-v2/DebertaV2ForMaskedLM": (
        NARROW,
        {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]},
    ),
    "distilbert/DistilBertForMaskedLM": (NARROW, {}),
    "electra/ElectraForMaskedLM": (NARROW, {}),
    "falcon/FalconForCausalLM": (NARROW, {}),
    "gemma2/Gemma2ForCausalLM": (NARROW, {}),
    "gpt2/GPT2LMHeadModel": (NARROW, {}),
    "gpt_neox/GPTNeoXForCausalLM": (NARROW, {}),
    "llama/LlamaForCausalLM": (NARROW, {}),
    "mamba/MambaForCausalLM": (NARROW, {}),
    "mixtral/MixtralForCausalLM": (NARROW, {}),
    "modernbert/ModernBertForMaskedLM": (NARROW, {}),
    "mpnet/MPNetForMaskedLM": (NARROW, {}),
    "opt/OPTForCausalLM": (NARROW, {}),
    "phi3/Phi3ForCausalLM": (WIDER, {}),
    "qwen2/Qwen2ForCausalLM": (NARROW, {}),
    "qwen3_moe/Qwen3MoeForCausalLM": (NARROW, {}),
    "resnet/ResNetForImageClassification": (NARROW, {}),
    "roberta/RobertaForMaskedLM": (NARROW, {}),
    "swin/SwinForImageClassification": (NARROW, {}),
    "t5/T5ForConditionalGeneration": (NARROW, {}),
    "vit/ViTForImageClassification": (NARROW, {}),
    "wav2vec2/Wav2Vec2ForCTC": (WIDER, {}),
    "whisper/WhisperForConditionalGeneration": (NARROW, {"max_source_positions": 32}),
    "xlnet/XLNetLMHeadModel": (NARROW, {}),
}
# Of those that hear, or see and read.
INPUTS: dict[str, Callable[[], dict[str, Tensor]]] = {
    "clip/CLIPModel": lambda: {
        "input_ids": torch.randint(32, 64, (2, 8)),
        "pixel_values": torch.randn(2, 3, 224, 224),
    },
    "wav2vec2/Wav2Vec2ForCTC": lambda: {"input_values": torch.randn(2, 3200)},
    "whisper/WhisperForConditionalGeneration": lambda: {
        "input_features": torch.randn(2, 80, 64),
        "decoder_input_ids": torch.randint(32, 64, (2, 6)),
    },
}


class Named(nn.Module):
    """A model that is called with keyword arguments, as one that takes them in order."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: Tensor) -> Any:
        return tensors(dict(self.model(**dict(zip(self.names, inputs, strict=True)))))


def forget(model: nn.Module) -> None:
    """Drop gradients, and what timm's attention with biases caches in evaluation mode with its graph."""
    model.zero_grad()
    model.train().eval()


def check(
    build: Callable[[], nn.Module],
    inputs: tuple[Tensor, ...],
    directory: Path,
    call: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> None:
    """Take a model through compress, forward, backward, copies, checkpoints and materialize."""
    plain = build().eval()
    dense = shapeshift.count_parameters(plain)
    expected_gradients = set(gradients(call(plain), inputs))
    forget(plain)
    model = shapeshift.compress(copy.deepcopy(plain), 0.5, seed=0)
    assert 0.99 * (dense // 2) <= shapeshift.count_parameters(model) <= dense // 2

    found = gradients(call(model), inputs)
    forget(model)
    assert any(".store." in name for name in found)
    kept = {name for name, _ in call(model).named_parameters()} & {name for name, _ in call(plain).named_parameters()}
    assert expected_gradients & kept == set(found) & kept
    assert all(gradient.isfinite().all() for gradient in found.values())
    torch.manual_seed(0)
    with torch.no_grad():
        expected = tensors(call(model)(*inputs))
    assert all(tensor.isfinite().all() for tensor in expected)

    def assert_same(twin: nn.Module) -> None:
        torch.manual_seed(0)
        with torch.no_grad():
            assert_close(tensors(call(twin)(*inputs)), expected, "moved")

    assert_same(copy.deepcopy(model))
    if not any(map(is_parametrized, model.modules())):  # torch refuses to pickle those
        assert_same(pickle.loads(pickle.dumps(model)))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = shapeshift.compress(copy.deepcopy(plain), 0.5, seed=1)
    other.load_state_dict(torch.load(file), strict=True)
    assert_same(other)
    shapeshift.save(model, directory)
    assert_same(shapeshift.load(directory, build().eval()))

    shapeshift.materialize(model)
    assert_same(model)
    assert_looks_like(model, plain)


@pytest.mark.parametrize("family", TIMM)
def test_timm(family: str, tmp_path: Path) -> None:
    name, options, side = TIMM[family]
    assert timm.models._registry._model_to_module[name] == family
    check(
        lambda: timm.create_model(name, num_classes=5, **options),
        (torch.randn(2, 3, side, side),),
        tmp_path,
    )


@pytest.mark.parametrize("architecture", TRANSFORMERS)
def test_transformers(architecture: str, tmp_path: Path) -> None:
    scale, options = TRANSFORMERS[architecture]
    build = partial(transformers_models.build, architecture, scale, **options)
    inputs = INPUTS[architecture]() if architecture in INPUTS else make_inputs(architecture, build())
    check(build, tuple(inputs.values()), tmp_path, lambda model: Named(model, list(inputs)))


def test_there_are_enough_of_both() -> None:
    assert len(TIMM) >= 40
    assert len(TRANSFORMERS) >= 20
