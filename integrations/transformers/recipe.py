"""What a configuration of transformers says about a compressed model."""

from __future__ import annotations

from typing import Any

from transformers.quantizers.auto import register_quantization_config
from transformers.utils.quantization_config import QuantizationConfigMixin

METHOD = "shapeshift"

# transformers ignores a quantization method that it does not know, and draws the weights that it misses at random. It
# does not ignore a name of the weights' file that cannot be one, and shows it.
GUARD = "this model is compressed: run `import shapeshift.integrations.transformers` before loading it"


@register_quantization_config(METHOD)
class ShapeshiftConfig(QuantizationConfigMixin):
    """What ``config.json`` says about a compressed or pruned model, under ``quantization_config``.

    Args:
        recipe: what :func:`shapeshift.save` writes beside the tensors.
        module: the dotted path of what was compressed; empty for the whole model.
        quant_method: the name that transformers finds this class by.
        **_: ignored, for files of later versions.
    """

    def __init__(
        self, recipe: dict[str, Any] | None = None, module: str = "", quant_method: str = METHOD, **_: Any
    ) -> None:
        self.recipe = recipe
        self.module = module
        self.quant_method = quant_method  # type: ignore[assignment]
