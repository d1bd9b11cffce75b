"""The recipe of a compressed model in a configuration of transformers."""

from __future__ import annotations

from typing import Any

from transformers.quantizers.auto import register_quantization_config
from transformers.utils.quantization_config import QuantizationConfigMixin

METHOD = "shapeshift"

# transformers ignores an unknown quantization method, and initialises the missing weights at random. But it refuses an
# impossible name of the weights' file, and shows the name in the error. So the name is a message to the user.
GUARD = "this model is compressed: run `import shapeshift.integrations.transformers` before loading it"


@register_quantization_config(METHOD)
class ShapeshiftConfig(QuantizationConfigMixin):
    """The field ``quantization_config`` in the ``config.json`` of a compressed or pruned model.

    Args:
        recipe: The description that :func:`shapeshift.save` writes beside the tensors.
        module: The dotted path of the compressed module; empty for the whole model.
        quant_method: The name by which transformers finds this class.
        **_: Further fields, which files of later versions may have. They are ignored.
    """

    def __init__(
        self, recipe: dict[str, Any] | None = None, module: str = "", quant_method: str = METHOD, **_: Any
    ) -> None:
        self.recipe = recipe
        self.module = module
        self.quant_method = quant_method  # type: ignore[assignment]
