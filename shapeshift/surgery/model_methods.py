"""Methods of transformers', timm's and the Hub's models that the root of a compressed one has in another form."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from shapeshift.errors import GeneratedWeightError
from shapeshift.surgery.attached import is_attached, is_generated
from shapeshift.surgery.other_tools import adapt_hub_mixin
from shapeshift.surgery.savers import adapt_save_pretrained
from shapeshift.surgery.state import adapt_loading, adapt_saving, adapt_state


def _adapt_listing_ties(base: Any) -> Callable[..., dict[str, str]]:
    """Return the ties that were found when the model was built."""

    def get_expanded_tied_weights_keys(self: Any, all_submodels: bool = False) -> dict[str, str]:
        # Not the base's: it expands patterns with the names of parameters, which generated weights are not any more.
        return dict(self.all_tied_weights_keys)

    return get_expanded_tied_weights_keys


def _adapt_tying(base: Any) -> Callable[..., None]:
    """Generated weights that are tied come from one source already: tie the others only."""

    def tie_weights(self: Any, missing_keys: Any = None, recompute_mapping: bool = True) -> None:
        ties: dict[str, str] = self.all_tied_weights_keys
        generated = {target: [is_generated(self, name) for name in (target, ties[target])] for target in ties}
        for target, source in ties.items():
            if any(generated[target]) and not all(generated[target]):
                raise GeneratedWeightError(
                    f"{target} and {source} cannot be tied, since only one of them is generated: the other was "
                    "replaced or not tied when the model was compressed. Tie before "
                    "shapeshift.compress(model, ...), or after shapeshift.materialize(model)"
                )
        kept = {target for target in ties if any(generated[target])}
        self.all_tied_weights_keys = {target: source for target, source in ties.items() if target not in kept}
        try:
            base.tie_weights(self, missing_keys, recompute_mapping=False)
        finally:
            left = self.all_tied_weights_keys  # transformers removes those that a checkpoint has two values for
            self.all_tied_weights_keys = {key: found for key, found in ties.items() if key in kept or key in left}

    return tie_weights


def _adapt_replacing(name: str, embeddings: str) -> Callable[[Any], Callable[..., Any]]:
    """Let a method replace embeddings that are not generated, and refuse otherwise."""

    def adapt(base: Any) -> Callable[..., Any]:
        method = getattr(base, name)

        @functools.wraps(method)
        def replace(self: Any, *args: Any, **kwargs: Any) -> Any:
            for getter in embeddings.split():
                found = getattr(self, getter)()
                if found is not None and is_attached(found):
                    raise GeneratedWeightError(
                        f"{name}() would replace an embedding that is generated from shared parameters. Call it before "
                        "shapeshift.compress(model, ...), or after shapeshift.materialize(model), or keep the "
                        "embeddings out with exclude="
                    )
            return method(self, *args, **kwargs)

        return replace

    return adapt


def _adapt_lookup(base: Any) -> Callable[..., nn.Module]:
    """PEFT's prompt methods look for the word embeddings at one path, and then for a parameter of as many rows."""

    def get_submodule(self: Any, target: str) -> nn.Module:
        try:
            found: nn.Module = base.get_submodule(self, target)
        except AttributeError:
            embeddings = getattr(self, _INPUT, None)
            if target != "embeddings.word_embeddings" or embeddings is None or not is_attached(embeddings()):
                raise
            found = embeddings()
        return found

    return get_submodule


def _adapt_tied_keys(base: Any) -> property:
    """PEFT looks for ties among the parameters, unless this is a mapping and no dict: then it takes the keys."""

    def tied_weights_keys(self: Any) -> Mapping[str, str] | None:
        ties: dict[str, str] = self.__dict__.get("all_tied_weights_keys", {})
        generated = any(is_generated(self, target) for target in ties)
        return MappingProxyType(ties) if generated else base._tied_weights_keys

    return property(tied_weights_keys)


def _adapt_writing(name: str, instead: str = "") -> Callable[[Any], Callable[..., Any]]:
    """Try a method that writes parameters one by one on a copy, so that a refusal leaves the model as it was."""

    def adapt(base: Any) -> Callable[..., Any]:
        method = getattr(base, name)

        @functools.wraps(method)
        def write(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                with torch.random.fork_rng({found.device for found in self.parameters() if found.is_cuda}):
                    method(copy.deepcopy(self), *args, **kwargs)
            except GeneratedWeightError as error:
                raise GeneratedWeightError(f"{name}() writes generated weights: {instead}{error}") from error
            return method(self, *args, **kwargs)

        return write

    return adapt


_INPUT, _OUTPUT = "get_input_embeddings", "get_output_embeddings"

MODEL_METHODS: dict[str, Callable[[Any], Any]] = {
    "state_dict": adapt_state,
    "_save_to_state_dict": adapt_saving,
    "_load_from_state_dict": adapt_loading,
    "save_pretrained": adapt_save_pretrained,
    "_save_pretrained": adapt_hub_mixin,
    "get_submodule": _adapt_lookup,
    "get_expanded_tied_weights_keys": _adapt_listing_ties,
    "_tied_weights_keys": _adapt_tied_keys,
    "tie_weights": _adapt_tying,
    "resize_token_embeddings": _adapt_replacing("resize_token_embeddings", f"{_INPUT} {_OUTPUT}"),
    "set_input_embeddings": _adapt_replacing("set_input_embeddings", _INPUT),
    "set_output_embeddings": _adapt_replacing("set_output_embeddings", _OUTPUT),
    "set_input_size": _adapt_writing("set_input_size"),
    "init_weights": _adapt_writing("init_weights", "model.shapeshift.reset_parameters() draws them anew; or "),
}
