"""Small configurations of transformers, made by rules on the names of their fields."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY = 512
ALL_LAYERS = 1000


@dataclass(frozen=True)
class Scale:
    """The size that a configuration is made smaller to.

    Attributes:
        width: The divisor of all widths. Attention keeps its number of heads, so that all widths keep their ratios.
        layers: The largest number of layers in a stack.
        vocabulary: The largest size of a vocabulary, whose first half holds the special tokens. None leaves its size.
    """

    width: int
    layers: int
    vocabulary: int | None

    def __str__(self) -> str:
        words = [f"widths / {self.width}"] if self.width > 1 else []
        words += [f"at most {self.layers} layers"] if self.layers < ALL_LAYERS else []
        words += [f"a vocabulary of {self.vocabulary}"] if self.vocabulary else []
        return ", ".join(words) or "default"


# The smallest first. A width may follow from several fields in ways that only the model knows: then it is left alone.
SCALES = (
    Scale(8, 4, VOCABULARY),
    Scale(8, 2, VOCABULARY),
    Scale(4, 4, VOCABULARY),
    Scale(8, ALL_LAYERS, VOCABULARY),
    Scale(8, 4, None),
    Scale(1, 2, VOCABULARY),
)

_WIDTH = re.compile(
    r".*(hidden|intermediate|embedding|ffn|head|output|forward)_sizes?(_\w+)?|(.*_)?(d|dim)_\w+|n_embd|dff"
    r"|(.*_)?(dims?|headdim|rank|channels?|filters|width)"
)
_LEAST_WIDTH = 32  # a smaller value is the size of a kernel, or a number of colours
_LAYERS = re.compile(r"(.*_)?(n_)?(layers?|depths?|blocks)")
_NO_LAYERS = re.compile(r".*(shared|every_n|random).*")
_EXPERTS = re.compile(r"(.*_)?(experts|expert_num)")
_VOCABULARY = re.compile(r"(.*_)?vocab(_sizes?)?(_per_layer_input)?")
_TOKEN = re.compile(r".*token_(id|index)|\w+_index")

_ROPE = {"rope_type": "default", "rope_theta": 1e4}
# What models cannot do without, and have no usable default for.
_NEEDED: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {"rope_parameters": dict.fromkeys(("full_attention", "sliding_attention"), _ROPE)},
    "deepseek_v2": {"num_experts_per_tok": 2, "moe_intermediate_size": 1408},
    "dots1": {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "lfm2_moe": {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "ministral": {"head_dim": 16},
    "nemotron_h": {"moe_intermediate_size": 7680},
    "nemotron": {"num_key_value_heads": 8},
    "perceiver": {"num_cross_attention_heads": 1, "num_self_attention_heads": 8},
    "reformer": {"axial_pos_shape": (4, 8)},
    "xmod": {"default_language": "en_XX"},
}


def small_config(model_type: str, scale: Scale, **options: Any) -> PreTrainedConfig:
    """Return the default configuration of a model type with fewer and narrower layers.

    Args:
        model_type: The name of the model type in transformers.
        scale: The size of the configuration.
        **options: Fields with other values than their defaults. They are made smaller as well.
    """
    return _small(CONFIG_MAPPING[model_type], {**_NEEDED.get(model_type, {}), **options}, scale)


def _small(cls: type[PreTrainedConfig], given: dict[str, Any], scale: Scale) -> PreTrainedConfig:
    """Make a configuration from smaller defaults; fields without one are derived from the others by the class."""
    common = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    defaults = {field.name: _default(field) for field in dataclasses.fields(cls) if field.name not in common}
    parts = {name: part for name, part in cls.sub_configs_defaults.items() if not part.optional}
    smaller = {
        name: _small_value(name, value, scale) for name, value in {**defaults, **given}.items() if name not in parts
    }
    changed = {name: value for name, value in smaller.items() if value is not defaults.get(name)}
    changed |= {name: _small_part(part, scale) for name, part in parts.items()}
    return cls(**changed)


def _small_part(part: SubConfigSpec, scale: Scale) -> PreTrainedConfig:
    known = issubclass(part.config_class, PreTrainedConfig)
    return _small(part.config_class if known else CONFIG_MAPPING[part.model_type], part.init_kwargs, scale)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _small_value(name: str, value: Any, scale: Scale) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_small_value(name, entry, scale) for entry in value)
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if _TOKEN.fullmatch(name):
        return value % (scale.vocabulary // 2) if scale.vocabulary and value >= 0 else value
    if _VOCABULARY.fullmatch(name):
        return min(value, scale.vocabulary or value)
    if _EXPERTS.fullmatch(name):
        return max(value // 8, min(value, 8))
    if _LAYERS.fullmatch(name) and not _NO_LAYERS.fullmatch(name):
        return min(value, scale.layers)
    if _WIDTH.fullmatch(name) and value >= _LEAST_WIDTH:
        return value // scale.width
    return value
