"""Families of timm and architectures of transformers, each through everything that a user does with a model."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

import shapeshift
from tests.models import gradients, tensors
from tests.test_invariants import assert_looks_like
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

TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DECODER = {**TEXT, "num_key_value_heads": 1, "head_dim": 16}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
GPT = {
    "vocab_size": 64,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SEQ2SEQ = {
    "vocab_size": 64,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
T5 = {"vocab_size": 64, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2}


def tokens() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(3, 64, (2, 8))}


def pairs() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(3, 64, (2, 8)), "decoder_input_ids": torch.randint(3, 64, (2, 6))}


def images() -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(2, 3, 32, 32)}


def images_and_tokens() -> dict[str, Tensor]:
    return {**images(), **tokens()}


def spectrogram() -> dict[str, Tensor]:
    return {"input_features": torch.randn(2, 16, 64), "decoder_input_ids": torch.randint(3, 64, (2, 6))}


def waveform() -> dict[str, Tensor]:
    return {"input_values": torch.randn(2, 800)}


# Architectures by the name of their model type in transformers: the head, the configuration and the inputs.
TRANSFORMERS: dict[str, tuple[str, dict[str, Any], Callable[[], dict[str, Tensor]]]] = {
    "albert": ("AutoModelForMaskedLM", {**TEXT, "embedding_size": 16}, tokens),
    "bart": ("AutoModelForSeq2SeqLM", {**SEQ2SEQ, "max_position_embeddings": 32}, pairs),
    "beit": ("AutoModelForImageClassification", VISION, images),
    "bert": ("AutoModelForMaskedLM", TEXT, tokens),
    "bloom": ("AutoModelForCausalLM", {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 2}, tokens),
    "clip": (
        "AutoModel",
        {"text_config": TEXT, "vision_config": VISION, "projection_dim": 16},
        images_and_tokens,
    ),
    "convnext": ("AutoModelForImageClassification", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}, images),
    "deberta-v2": (
        "AutoModelForMaskedLM",
        {**TEXT, "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]},
        tokens,
    ),
    "distilbert": (
        "AutoModelForMaskedLM",
        {"vocab_size": 64, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 32},
        tokens,
    ),
    "electra": ("AutoModelForMaskedLM", {**TEXT, "embedding_size": 16}, tokens),
    "falcon": ("AutoModelForCausalLM", {**TEXT, "ffn_hidden_size": 48}, tokens),
    "gemma2": ("AutoModelForCausalLM", {**DECODER, "query_pre_attn_scalar": 16}, tokens),
    "gpt2": ("AutoModelForCausalLM", GPT, tokens),
    "gpt_neox": ("AutoModelForCausalLM", TEXT, tokens),
    "llama": ("AutoModelForCausalLM", DECODER, tokens),
    "mamba": (
        "AutoModelForCausalLM",
        {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 4},
        tokens,
    ),
    "mixtral": ("AutoModelForCausalLM", {**DECODER, "num_local_experts": 4, "num_experts_per_tok": 2}, tokens),
    "modernbert": ("AutoModelForMaskedLM", {**TEXT, "cls_token_id": 1, "sep_token_id": 2}, tokens),
    "mpnet": ("AutoModelForMaskedLM", TEXT, tokens),
    "opt": (
        "AutoModelForCausalLM",
        {**TEXT, "ffn_dim": 48, "word_embed_proj_dim": 32},
        tokens,
    ),
    "phi3": ("AutoModelForCausalLM", {**DECODER, "original_max_position_embeddings": 32}, tokens),
    "qwen2": ("AutoModelForCausalLM", DECODER, tokens),
    "qwen3_moe": (
        "AutoModelForCausalLM",
        {**DECODER, "moe_intermediate_size": 24, "num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2},
        tokens,
    ),
    "resnet": (
        "AutoModelForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
        images,
    ),
    "roberta": ("AutoModelForMaskedLM", {**TEXT, "max_position_embeddings": 40}, tokens),
    "swin": (
        "AutoModelForImageClassification",
        {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
        images,
    ),
    "t5": ("AutoModelForSeq2SeqLM", {**T5, "pad_token_id": 0, "decoder_start_token_id": 0}, pairs),
    "vit": ("AutoModelForImageClassification", VISION, images),
    "wav2vec2": (
        "AutoModelForCTC",
        {
            **TEXT,
            "conv_dim": (16, 16),
            "conv_kernel": (10, 3),
            "conv_stride": (5, 2),
            "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
        },
        waveform,
    ),
    "whisper": (
        "AutoModelForSpeechSeq2Seq",
        {**SEQ2SEQ, "num_mel_bins": 16, "max_source_positions": 32, "max_target_positions": 32},
        spectrogram,
    ),
    "xlnet": (
        "AutoModelForCausalLM",
        {"vocab_size": 64, "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 48},
        tokens,
    ),
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
            assert_close(tensors(call(twin)(*inputs)), expected, "identical")

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
    head, options, make_inputs = TRANSFORMERS[architecture]
    inputs = make_inputs()
    config = transformers.AutoConfig.for_model(architecture, **options)
    config.use_cache = False
    check(
        lambda: getattr(transformers, head).from_config(config),
        tuple(inputs.values()),
        tmp_path,
        lambda model: Named(model, list(inputs)),
    )


def test_there_are_enough_of_both() -> None:
    assert len(TIMM) >= 40
    assert len(TRANSFORMERS) >= 20
