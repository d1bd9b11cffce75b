"""Which operations between layers keep channels apart, so that those of both sides can be removed together."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from shapeshift.prune.layers import kind_of

# Operations that keep each channel by itself and in its place, named as autograd names them.
_KEEPING = re.compile(
    r"(Add|Addcmul|Sub|Rsub|Mul|Div|Neg|Abs|Pow|Sqrt|Rsqrt|Exp|Log|Clamp\w*|Maximum|Minimum|"
    r"Relu|LeakyRelu\w*|Gelu|Silu|Mish|Elu|Celu|Selu|Hardswish|Hardtanh|Hardsigmoid|Sigmoid|Tanh|Softplus|Threshold|"
    r"Mean|Sum|Amax|Amin|Var|Std|\w*AvgPool[123]D\w*|\w*MaxPool[123]D\w*|MkldnnMaxPool\w*|Upsample\w*|"
    r"(Reflection|Replication)Pad[123]D|"
    r"Permute|Transpose|T|Squeeze|Unsqueeze|Clone|Alias|ToCopy|NativeDropout|Dropout|FusedDropout|"
    r"(Native|Cudnn|Miopen)BatchNorm|NativeLayerNorm|NativeGroupNorm)(Backward\d*)?"
)
# The products inside of a linear layer.
_PRODUCTS = re.compile(r"(Addmm|Mm|Bmm|Linear)(Backward\d*)?")
# A dimension that was given as a negative number comes back as an unsigned one.
_UNSIGNED = 2**64


class Shapes(TorchFunctionMode):
    """Notes the shapes that each operation takes and gives, by its node in autograd's graph."""

    def __init__(self) -> None:
        super().__init__()
        self.by_node: dict[Any, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.grad_fn is not None:
            source = next((tuple(value.shape) for value in args if isinstance(value, Tensor)), ())
            # The first: what returns its argument as it is comes later, with the same node.
            self.by_node.setdefault(result.grad_fn, (source, tuple(result.shape)))
        return result


def operation_name(node: Any) -> str:
    """Return what autograd calls an operation of the graph."""
    return str(node.grad_fn.name()) if hasattr(node.grad_fn, "name") else type(node.grad_fn).__name__


def keeps_channels(node: Any, shapes: Shapes) -> bool:
    """Tell whether an operation is known to keep channels by themselves and in their places.

    Args:
        node: of Torch-Pruning's graph.
        shapes: those of the pass that the graph was made from.
    """
    from torch_pruning.ops import OPTYPE

    name = operation_name(node)
    source, result = shapes.by_node.get(node.grad_fn, ((), ()))
    if node.type == OPTYPE.CONCAT:
        offsets, dim = node.module.offsets, _dimension(node.grad_fn, result)
        if (len(result), dim) in ((2, 1), (3, 2), (4, 1)):
            return bool(offsets) and offsets[-1] == result[dim] and node.enable_index_mapping
        edges = [edge for edge in node.dependencies if any(mapping is not None for mapping in edge.index_mapping)]
        return len(result) == 3 and dim == 1 and not edges
    if node.type == OPTYPE.SLICE or name.startswith("Select"):
        # Of tokens, or of rows: in the last dimension, columns and channels look alike.
        return (len(source), _dimension(node.grad_fn, source)) in ((3, 1), (4, 2))
    if name.startswith("ConstantPadNd"):
        return len(source) == 4 and source[:2] == result[:2]
    # Pooling to one pixel sets strides as its last step.
    if node.type in (OPTYPE.RESHAPE, OPTYPE.EXPAND) or name.startswith("AsStrided"):
        if not result:  # inside of a layer
            return all(_PRODUCTS.fullmatch(operation_name(reader)) or _is_layer(reader) for reader in node.outputs)
        return _keeps_layout(source, result)
    # Splits are among the others: the graph knows their parts, but not which part is whose.
    if node.type != OPTYPE.ELEMENTWISE:
        return False
    if _PRODUCTS.fullmatch(name):
        return all(isinstance(reader.module, nn.Linear) for reader in node.outputs)
    return _KEEPING.fullmatch(name) is not None


def _is_layer(node: Any) -> bool:
    return isinstance(node.module, nn.Module) and kind_of(node.module) is not None


def _dimension(grad_fn: Any, shape: tuple[int, ...]) -> int:
    dim = int(getattr(grad_fn, "_saved_dim", 0))
    return dim - _UNSIGNED + len(shape) if dim > _UNSIGNED // 2 else dim


def _keeps_layout(source: tuple[int, ...], result: tuple[int, ...]) -> bool:
    """Tell whether a view keeps channels on one axis, the second or the last, or flattens maps that have them first."""
    dims = len(source), len(result)
    if not source or max(dims) > 4:
        return False
    if dims[0] == 1:
        return source[0] in result
    if source[:2] == result[:2]:
        # Three dimensions become four where heads are split off.
        return dims != (3, 4)
    if dims[0] == 4 and dims[1] != 3:
        return dims[1] == 2 and source[0] == result[0]
    return source[-1] == result[-1] and (2 in dims or source[0] == result[0])
