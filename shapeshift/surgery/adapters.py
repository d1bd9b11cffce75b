"""How torch's own containers and layers read generated weights, where a property for each weight is not enough."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule

from shapeshift.errors import ModelError
from shapeshift.surgery.other_tools import adapt_module
from shapeshift.surgery.savers import adapt_saver
from shapeshift.surgery.shared_parameters import ATTRIBUTE, put_first
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


ADAPTERS: dict[type[nn.Module], Callable[[Any, bool], dict[str, Any]]] = {
    nn.Module: lambda base, root: {**adapt_module(base, root), **adapt_saver(base, root)},
    nn.RNNBase: _adapt_rnn,
    nn.MultiheadAttention: _adapt_untraceable,
    nn.Sequential: _adapt_container,
    nn.ModuleList: _adapt_container,
    nn.ModuleDict: _adapt_dict,
    nn.ParameterList: _adapt_parameters,
    GraphModule: _adapt_graph,
}
