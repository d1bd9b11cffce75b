"""The weights of a forward pass that torch.fx traces: calls of the generators, as part of the traced graph."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Proxy, Tracer
from torch.fx._symbolic_trace import is_fx_symbolic_tracing
from torch.fx.proxy import ParameterProxy
from torch.utils._pytree import tree_leaves

from shapeshift.errors import ModelError
from shapeshift.generators import WeightGenerator
from shapeshift.surgery.lazy_weight import LazyWeight
from shapeshift.weights import Weight


class TracedWeight(ParameterProxy):
    """A generated weight in a traced graph. Its shape is known while the graph is traced, as that of a parameter is."""

    param: Any

    def __init__(self, node: torch.fx.Node, tracer: Any, weight: LazyWeight) -> None:
        Proxy.__init__(self, node, tracer)
        self.param = weight
        self.name = node.name


class TracedPass:
    """What a layer reads while torch.fx traces the model: the outputs of one call of the group's generator.

    The traced graph has the generator as a submodule, by its path in the model. So it owns the shared parameters,
    generates all weights of the group together when it runs, and passes gradients on.

    Args:
        generator: The generator of the group.
        tracer: The tracer.
    """

    #: As of a :class:`~shapeshift.surgery.forward_pass.ForwardPass`: a layer may read the weights at any time.
    is_current = True

    def __init__(self, generator: WeightGenerator[Any], tracer: Tracer) -> None:
        self._generator = generator
        self._tracer = tracer
        self._generated: Any = tracer.create_proxy("call_module", tracer.path_of_module(generator), (), {})

    def read(self, index: int) -> Any:
        """Return a weight of the graph."""
        node = self._generated[index].node
        return TracedWeight(node, self._tracer, LazyWeight.of(self._generator, index, {}))

    def overwritten(self) -> list[int]:
        """Return no index: the writes of a graph happen when it runs."""
        return []


def find_tracer(*inputs: Any) -> Tracer | None:
    """Return the tracer of torch.fx that runs a forward pass with these inputs; None without one."""
    if not is_fx_symbolic_tracing():
        return None
    found = [value.tracer for value in tree_leaves(inputs) if isinstance(value, Proxy)]
    return found[0] if found else None  # type: ignore[return-value]


def check_untraced(weight: Weight) -> None:
    """Raise if torch.fx traces a layer that reads a weight outside of the compressed model's forward pass.

    Raises:
        ModelError: if so.
    """
    if is_fx_symbolic_tracing():
        from torch.fx.experimental.proxy_tensor import get_proxy_mode  # slow to import

        if get_proxy_mode() is None:  # torch.fx.experimental.make_fx runs with tensors
            raise ModelError(
                f"torch.fx traces the layer of {weight.name} {weight.shape} apart from the compressed model, into a "
                "graph that would lack what generates this weight: trace the whole model, or call "
                "shapeshift.materialize(model) first"
            )
