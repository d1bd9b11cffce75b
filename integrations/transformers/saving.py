"""Importing this replaces ``PreTrainedModel.save_pretrained``: a compressed model is saved with its recipe."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import transformers

from shapeshift.checkpoint.checkpoint import stamped
from shapeshift.checkpoint.snapshot import Snapshot, find_saved_root
from shapeshift.errors import ModelError
from shapeshift.integrations.transformers.recipe import GUARD, METHOD, ShapeshiftConfig
from shapeshift.surgery.attached import is_attached, is_generated

_FIELDS = ("quantization_config", "transformers_weights")

_save_pretrained = transformers.PreTrainedModel.save_pretrained


@functools.wraps(_save_pretrained)
def save_pretrained(self: Any, *args: Any, **kwargs: Any) -> None:
    """Save a model of transformers. If it is compressed or pruned, write the recipe into its configuration.

    Raises:
        ModelError: if the model is a part of a compressed one, is tied to weights outside of what was compressed, or
            is quantized as well.
    """
    root = find_saved_root(self)
    quantized = getattr(self.config, "quantization_config", None)
    method = quantized.get("quant_method") if isinstance(quantized, dict) else getattr(quantized, "quant_method", None)
    if root is not None:
        path = next(path for path, module in self.named_modules() if module is root)
        _check(self, path, method)
        values: tuple[Any, ...] = (ShapeshiftConfig(stamped(Snapshot.of(root).description), path), GUARD)
    elif any(is_attached(module) for module in self.modules()):
        raise ModelError(
            f"{type(self).__name__} is a part of a compressed model, without the parameters that its weights are "
            "generated from. Save the whole model, or call shapeshift.materialize(model) first"
        )
    elif method == METHOD:  # a plain model that was built from the configuration of a compressed one
        values = ()
    else:
        _save_pretrained(self, *args, **kwargs)
        return
    with _written_with(self.config, dict(zip(_FIELDS, values, strict=False))):
        _save_pretrained(self, *args, **kwargs)


transformers.PreTrainedModel.save_pretrained = save_pretrained  # type: ignore[method-assign]


def _check(model: Any, path: str, method: Any) -> None:
    """Refuse a model that could not be loaded again."""
    if method not in (None, METHOD):
        raise ModelError(
            f"{type(model).__name__} is compressed and quantized, and config.json can describe only one of the two"
        )
    for target, source in model.all_tied_weights_keys.items():
        # Two weights inside of what was compressed are generated together, unless they were not tied at that time.
        outside = not (target.startswith(path) and source.startswith(path))
        if outside and is_generated(model, target) != is_generated(model, source):
            raise ModelError(
                f"{target} and {source} are tied, and only one of them is generated. Compress the whole "
                "model, or keep that weight out with exclude="
            )


@contextmanager
def _written_with(config: Any, fields: dict[str, Any]) -> Iterator[None]:
    """Give a configuration the fields while it is written; transformers removes them if they are set before."""
    own = vars(config)

    def to_json_file(*args: Any, **kwargs: Any) -> None:
        del own["to_json_file"]
        before = {name: own.pop(name) for name in _FIELDS if name in own}
        own.update(fields)
        try:
            config.to_json_file(*args, **kwargs)
        finally:
            for name in fields:
                del own[name]
            own.update(before, to_json_file=to_json_file)

    own["to_json_file"] = to_json_file
    try:
        yield
    finally:
        del own["to_json_file"]
