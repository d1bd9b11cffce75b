"""Operations between layers, and the rules that say which of them keep channels apart.

Channels on both sides of such an operation can be removed together.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from shapeshift.prune.layers import kind_of

# The names that autograd gives to operations that keep each channel apart and in its place.
_KEEPING = re.compile(
    r"(Add|Addcmul|Sub|Rsub|Mul|Div|Neg|Abs|Pow|Sqrt|Rsqrt|Exp|Log|Clamp\w*|Maximum|Minimum|"
    r"Relu|LeakyRelu\w*|Gelu|Silu|Mish|Elu|Celu|Selu|Hardswish|Hardtanh|Hardsigmoid|Sigmoid|Tanh|Softplus|Threshold|"
    r"Mean|Sum|Amax|Amin|Var|Std|\w*AvgPool[123]D\w*|\w*MaxPool[123]D\w*|MkldnnMaxPool\w*|Upsample\w*|"
    r"(Reflection|Replication)Pad[123]D|"
    r"Permute|Transpose|T|Squeeze|Unsqueeze|Clone|Alias|ToCopy|NativeDropout|Dropout|FusedDropout|"
    r"(Native|Cudnn|Miopen)BatchNorm|NativeLayerNorm|NativeGroupNorm)(Backward\d*)?"
)
# The names of the products inside of a linear layer.
_PRODUCTS = re.compile(r"(Addmm|Mm|Bmm|Linear)(Backward\d*)?")
# Autograd stores a negative dimension as an unsigned number.
_UNSIGNED = 2**64


class Shapes(TorchFunctionMode):
    """Records the shapes of the first argument and the result of each operation, by its node in autograd's graph."""

    def __init__(self) -> None:
        super().__init__()
        self.by_node: dict[Any, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.grad_fn is not None:
            source = next((tuple(value.shape) for value in args if isinstance(value, Tensor)), ())
            # Keep the first entry: an operation that returns its argument as it is comes later, with the same node.
            self.by_node.setdefault(result.grad_fn, (source, tuple(result.shape)))
        return result


def operation_name(node: Any) -> str:
    """Return the name that autograd gives to an operation of the graph."""
    return str(node.grad_fn.name()) if hasattr(node.grad_fn, "name") else type(node.grad_fn).__name__


def keeps_channels(node: Any, shapes: Shapes) -> bool:
    """Return whether an operation is known to keep channels apart and in their places.

    Args:
        node: The operation, a node of Torch-Pruning's graph.
        shapes: The shapes in the pass that the graph was made from.
    """
    source, result = shapes.by_node.get(node.grad_fn, ((), ()))
    operation = _Operation(node, node.type.name, operation_name(node), source, result)
    return next(keeps(operation) for applies, keeps in _RULES if applies(operation))


@dataclass(frozen=True)
class _Operation:
    """An operation of the graph.

    Attributes:
        node: The node of Torch-Pruning's graph.
        kind: The kind that Torch-Pruning takes it for.
        name: The name that autograd gives it.
        source: The shape of its first argument; empty where it is not known, as inside a layer.
        result: The shape of its result; empty where it is not known.
    """

    node: Any
    kind: str
    name: str
    source: tuple[int, ...]
    result: tuple[int, ...]

    def dimension(self, shape: tuple[int, ...]) -> int:
        """Return the dimension of a shape that the operation works along."""
        dim = int(getattr(self.node.grad_fn, "_saved_dim", 0))
        return dim - _UNSIGNED + len(shape) if dim > _UNSIGNED // 2 else dim


def _concatenation_keeps(operation: _Operation) -> bool:
    """Allow the concatenation of channels, where the graph knows the offsets of all parts, and that of tokens."""
    node, result, dim = operation.node, operation.result, operation.dimension(operation.result)
    if (len(result), dim) in ((2, 1), (3, 2), (4, 1)):
        offsets = node.module.offsets
        return bool(offsets) and offsets[-1] == result[dim] and bool(node.enable_index_mapping)
    moves_channels = any(mapping is not None for edge in node.dependencies for mapping in edge.index_mapping)
    return len(result) == 3 and dim == 1 and not moves_channels


def _slice_keeps(operation: _Operation) -> bool:
    """Allow slices of tokens or rows. A slice along the last of four dimensions may be one of columns or channels."""
    return (len(operation.source), operation.dimension(operation.source)) in ((3, 1), (4, 2))


def _padding_keeps(operation: _Operation) -> bool:
    """Allow padding of rows and columns."""
    return len(operation.source) == 4 and operation.source[:2] == operation.result[:2]


def _view_keeps(operation: _Operation) -> bool:
    """Allow views inside of layers, and those that keep the layout of channels."""
    if not operation.result:
        readers = operation.node.outputs
        return all(_PRODUCTS.fullmatch(operation_name(reader)) or _is_layer(reader) for reader in readers)
    return _keeps_layout(operation.source, operation.result)


def _product_keeps(operation: _Operation) -> bool:
    """Allow the products inside of linear layers."""
    return all(isinstance(reader.module, nn.Linear) for reader in operation.node.outputs)


# Which operations a rule is for, and whether such an operation keeps channels. The first rule that applies decides.
_RULES: tuple[tuple[Callable[[_Operation], bool], Callable[[_Operation], bool]], ...] = (
    (lambda operation: operation.kind == "CONCAT", _concatenation_keeps),
    (lambda operation: operation.kind == "SLICE" or operation.name.startswith("Select"), _slice_keeps),
    (lambda operation: operation.name.startswith("ConstantPadNd"), _padding_keeps),
    # Pooling to one pixel sets strides as its last step.
    (lambda operation: operation.kind in ("RESHAPE", "EXPAND") or operation.name.startswith("AsStrided"), _view_keeps),
    # Splits are among the others: the graph knows their parts, but not the order of the parts.
    (lambda operation: operation.kind != "ELEMENTWISE", lambda _: False),
    (lambda operation: _PRODUCTS.fullmatch(operation.name) is not None, _product_keeps),
    (lambda _: True, lambda operation: _KEEPING.fullmatch(operation.name) is not None),
)


def _is_layer(node: Any) -> bool:
    return isinstance(node.module, nn.Module) and kind_of(node.module) is not None


def _keeps_layout(source: tuple[int, ...], result: tuple[int, ...]) -> bool:
    """Return whether a view keeps channels on the second or last axis, or flattens maps whose channels come first."""
    dims = len(source), len(result)
    if not source or max(dims) > 4:
        return False
    if dims[0] == 1:
        return source[0] in result
    if source[:2] == result[:2]:
        # Attention splits heads off by a view from three dimensions to four.
        return dims != (3, 4)
    if dims[0] == 4 and dims[1] != 3:
        return dims[1] == 2 and source[0] == result[0]
    return source[-1] == result[-1] and (2 in dims or source[0] == result[0])
