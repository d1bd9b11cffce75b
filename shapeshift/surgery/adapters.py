"""What some of torch's own modules need, beside a property for each weight, to read generated weights."""

from __future__ import annotations

import copy
import functools
import sys
from collections import OrderedDict
from collections.abc import Callable
from types import FrameType
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule

from shapeshift.errors import GeneratedWeightError, ModelError
from shapeshift.surgery.attached import is_attached, is_generated, weight_sources
from shapeshift.surgery.other_tools import adapt_hub_mixin, adapt_module
from shapeshift.surgery.shared_parameters import ATTRIBUTE, put_first
from shapeshift.surgery.state import adapt_loading, adapt_saving
from shapeshift.surgery.traced_pass import find_tracer


def _adapt_untraceable(base: Any, root: bool) -> dict[str, Any]:
    """torch.fx calls torch's own layers as a whole; most can be traced as well, and those that cannot are called."""

    @functools.wraps(base.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        tracer = find_tracer(args, kwargs)
        if tracer is None:
            return base.forward(self, *args, **kwargs)
        return tracer.create_proxy("call_module", tracer.path_of_module(self), args, kwargs)

    return {"forward": forward}


def _adapt_rnn(base: type[nn.Module], root: bool) -> dict[str, Any]:
    """An RNN hands torch a list of its weights, kept up to date by hand: read them afresh instead."""

    def flat_weights(self: Any) -> list[Tensor]:
        return [getattr(self, name) for name in self._flat_weights_names]

    return {
        **_adapt_untraceable(base, root),
        "_flat_weights": property(flat_weights, lambda self, value: None),
        "flatten_parameters": lambda self: None,
    }


def _own_children(self: nn.Module) -> dict[str, Any]:
    """Return the children of a root that is a container, without the shared parameters."""
    return {name: child for name, child in self._modules.items() if name != ATTRIBUTE}


def _editing(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let a container's own method count its children, and number them anew, while the shared parameters are away."""

    @functools.wraps(method)
    def edit(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        shared = self._modules.pop(ATTRIBUTE, None)
        try:
            return method(self, *args, **kwargs)
        finally:
            if shared is not None:  # unless one edit calls another
                put_first(self, shared)

    return edit


def _adapt_container(base: Any, root: bool) -> dict[str, Any]:
    """A container runs or lists its children: leave the shared parameters out of them."""
    if not root:
        return {}

    def item(self: nn.Module, index: Any) -> Any:
        if not isinstance(index, slice):
            return list(_own_children(self).values())[index]
        chosen = list(_own_children(self).items())[index]
        return base(OrderedDict(chosen)) if issubclass(base, nn.Sequential) else base(child for _, child in chosen)

    edits = ("__setitem__", "__delitem__", "__iadd__", "append", "extend", "insert", "pop")
    return {
        **{name: _editing(getattr(base, name)) for name in edits if hasattr(base, name)},
        "__len__": lambda self: len(_own_children(self)),
        "__iter__": lambda self: iter(_own_children(self).values()),
        "__getitem__": item,
    }


def _adapt_dict(base: Any, root: bool) -> dict[str, Any]:
    """The same for a container that lists its children by name, as timm's feature extractors do."""
    if not root:
        return {}
    return {
        "__len__": lambda self: len(_own_children(self)),
        "__iter__": lambda self: iter(_own_children(self)),
        "__contains__": lambda self, name: name in _own_children(self),
        "keys": lambda self: _own_children(self).keys(),
        "values": lambda self: _own_children(self).values(),
        "items": lambda self: _own_children(self).items(),
        "clear": _editing(base.clear),
    }


def _adapt_parameters(base: Any, root: bool) -> dict[str, Any]:
    """A slice of a list of parameters would make parameters of generated weights, cut off from what generates them."""

    def item(self: Any, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return base.__getitem__(self, index)

    return {"__getitem__": item}


def _adapt_graph(base: Any, root: bool) -> dict[str, Any]:
    """A traced module is copied by generating a class from its graph, which knows nothing of generated weights."""

    def refuse(self: Any, *_: Any) -> Any:
        raise ModelError(
            "a torch.fx.GraphModule cannot be copied or pickled while it is compressed: trace a copy of the model, "
            "shapeshift.save and load it, or call shapeshift.materialize(model) first"
        )

    return dict.fromkeys(("__copy__", "__deepcopy__", "__reduce_ex__", "__reduce__"), refuse)


# Functions of transformers, diffusers, the Hub and timm that write a model by the names of plain weights, and PEFT's,
# which picks the names of adapters.
_PICKS_ADAPTERS = "get_peft_model_state_dict"
_SAVERS = {"save_pretrained", "_save_pretrained", "save_for_hf", _PICKS_ADAPTERS}


def _adapt_saving(base: Any, root: bool) -> dict[str, Any]:
    """A checkpoint by the names of plain weights lacks the generated ones: refuse to be written to one."""

    def _save_to_state_dict(self: nn.Module, *args: Any) -> None:
        for source, index in weight_sources(self).values() if is_attached(self) else ():
            _check_saver(source.weights[index].name, source.generator)
        base._save_to_state_dict(self, *args)

    return {"_save_to_state_dict": _save_to_state_dict}


def _check_saver(name: str, generator: nn.Module) -> None:
    """Raise if a function is running that would save a model without a generated weight.

    Raises:
        ModelError: if so. Functions of this package save the weight, and adapters beside frozen weights are complete.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_ours(frame):
        saver, called_by = frame.f_code.co_name, frame.f_back
        if saver in _SAVERS:
            frozen = not any(parameter.requires_grad for parameter in generator.parameters())
            if (saver == _PICKS_ADAPTERS and frozen) or (called_by is not None and _is_ours(called_by)):
                return
            raise ModelError(
                f"{name} is generated from shared parameters, and {frame.f_globals['__name__']}.{saver} would write a "
                "checkpoint without it. Call shapeshift.save(model, folder) instead, or materialize the model first. "
                "Models of transformers have a save_pretrained after `import shapeshift.integrations.transformers`"
            )
        frame = called_by


def _is_ours(frame: FrameType) -> bool:
    module: str = frame.f_globals.get("__name__", "")
    return module.startswith("shapeshift.") and not module.startswith("shapeshift.surgery.")


ADAPTERS: dict[type[nn.Module], Callable[[Any, bool], dict[str, Any]]] = {
    nn.Module: lambda base, root: {**adapt_module(base, root), **_adapt_saving(base, root)},
    nn.RNNBase: _adapt_rnn,
    nn.MultiheadAttention: _adapt_untraceable,
    nn.Sequential: _adapt_container,
    nn.ModuleList: _adapt_container,
    nn.ModuleDict: _adapt_dict,
    nn.ParameterList: _adapt_parameters,
    GraphModule: _adapt_graph,
}


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


def _adapt_input_size(base: Any) -> Callable[..., Any]:
    """timm's models replace parameters one by one: try it on a copy, so that a refusal leaves the model as it was."""

    @functools.wraps(base.set_input_size)
    def set_input_size(self: Any, *args: Any, **kwargs: Any) -> Any:
        base.set_input_size(copy.deepcopy(self), *args, **kwargs)
        return base.set_input_size(self, *args, **kwargs)

    return set_input_size


_INPUT, _OUTPUT = "get_input_embeddings", "get_output_embeddings"

#: Methods of transformers' models that the root of a compressed one has in another form.
MODEL_METHODS: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "_save_to_state_dict": adapt_saving,
    "_load_from_state_dict": adapt_loading,
    "_save_pretrained": adapt_hub_mixin,
    "get_submodule": _adapt_lookup,
    "get_expanded_tied_weights_keys": _adapt_listing_ties,
    "tie_weights": _adapt_tying,
    "resize_token_embeddings": _adapt_replacing("resize_token_embeddings", f"{_INPUT} {_OUTPUT}"),
    "set_input_embeddings": _adapt_replacing("set_input_embeddings", _INPUT),
    "set_output_embeddings": _adapt_replacing("set_output_embeddings", _OUTPUT),
    "set_input_size": _adapt_input_size,
}
