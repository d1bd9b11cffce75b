"""Every architecture of transformers with one of five heads, from a small configuration."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

from benchmarks.coverage.check import Attempt
from benchmarks.coverage.small_configs import SCALES, VOCABULARY, Scale, small_config

HEADS = ("CAUSAL_LM", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM", "QUESTION_ANSWERING", "IMAGE_CLASSIFICATION")
MOST_PARAMETERS = 600_000_000
BATCH_SIZE, TOKENS = 2, 32


def names() -> list[str]:
    """Return all architectures, as "MODEL_TYPE/CLASS"."""
    return sorted({name for head in HEADS for name in _with_head(head)})


def _with_head(head: str) -> Iterator[str]:
    """Yield the architectures that have a head, of which a model type may have several."""
    for model_type, classes in getattr(modeling_auto, f"MODEL_FOR_{head}_MAPPING_NAMES").items():
        for name in (classes,) if isinstance(classes, str) else classes:
            yield f"{model_type}/{name}"


def attempts(name: str) -> Iterator[Attempt]:
    """Yield ways to build an architecture, the smallest first."""
    for scale in SCALES:
        yield Attempt(str(scale), partial(build, name, scale), partial(_call, name), MOST_PARAMETERS)


def build(name: str, scale: Scale, **options: Any) -> PreTrainedModel:
    """Build an architecture from its default configuration, made smaller.

    Args:
        name: The architecture as "MODEL_TYPE/CLASS".
        scale: The size of the configuration.
        **options: Fields of the configuration.
    """
    model_type, _, class_name = name.partition("/")
    cls: type[PreTrainedModel] = getattr(transformers, class_name)
    config = small_config(model_type, scale, **options)
    parts = [getattr(config, part) for part in config.sub_configs]
    config = next((part for part in parts if type(part) is cls.config_class), config)
    if hasattr(config, "use_cache"):
        config.use_cache = False  # as in training
    if hasattr(config, "is_decoder"):
        config.is_decoder = name in _with_head("CAUSAL_LM")
    return cls(config)


def _call(name: str, model: PreTrainedModel) -> Any:
    return model(**make_inputs(name, model))


def make_inputs(name: str, model: PreTrainedModel) -> dict[str, Tensor]:
    """Make a batch for a model: images, or tokens that are not special, and the other inputs that it requires."""
    generator = torch.Generator().manual_seed(0)
    randn = partial(torch.randn, generator=generator)
    config, arguments = model.config, inspect.signature(model.forward).parameters
    if "spatial_shapes" in arguments:  # patches of images of several sizes
        patches = randn(BATCH_SIZE, 16, config.vision_config.num_channels * config.vision_config.patch_size**2)
        shapes = torch.full((BATCH_SIZE, 2), 4)
        mask = torch.ones(BATCH_SIZE, 16, dtype=torch.long)
        return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": shapes}
    if name in _with_head("IMAGE_CLASSIFICATION") and "input_ids" not in arguments:
        side, channels = getattr(config, "image_size", 224), getattr(config, "num_channels", 3)
        height, width = side if isinstance(side, list | tuple) else (side, side)
        return {model.main_input_name: randn(BATCH_SIZE, channels, height, width)}
    size = min(getattr(config.get_text_config(), "vocab_size", VOCABULARY), VOCABULARY)
    streams = getattr(config, "num_codebooks", 1)  # of tokens for each piece of music
    tokens = torch.randint(size // 2, size, (BATCH_SIZE * streams, TOKENS), generator=generator)
    # ImageGPT reads an image as tokens, whatever it calls its main input.
    inputs = {"input_ids" if "input_ids" in arguments else model.main_input_name: tokens}
    if "decoder_input_ids" in arguments:
        inputs["decoder_input_ids"] = tokens
    if "global_attention_mask" in arguments:
        inputs["global_attention_mask"] = (torch.arange(TOKENS) == 0).long().expand(BATCH_SIZE, -1)
    if "visual_feats" in arguments:
        inputs["visual_feats"] = randn(BATCH_SIZE, 4, config.visual_feat_dim)
        inputs["visual_pos"] = randn(BATCH_SIZE, 4, config.visual_pos_dim)
    return inputs
