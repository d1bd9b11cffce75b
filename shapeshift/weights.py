"""The weights of a model that can be generated, and the deviation that each starts with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from shapeshift.errors import ModelError
from shapeshift.names import match_names
from shapeshift.running.modes import is_sharded
from shapeshift.structure import Frozen, structure_of

# Narrower dtypes hold quantised values, which torch does not compute with.
_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Weight:
    """One parameter tensor that is to be generated.

    Attributes:
        names: every dotted path under which the model holds the tensor; the first one names it. Empty if no layer of
            the model reads the weight, as after a pretrained model is loaded under another head.
        shape: its shape.
        std: the standard deviation it starts with; 0 for a weight that starts at zero.
        dtype: its dtype.
        device: its device.
        structure: what its starting values have and noise lacks; empty for noise, and in a plan that was read.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    std: float
    dtype: torch.dtype
    device: torch.device
    structure: str = dataclasses.field(default="", compare=False, repr=False)

    @property
    def name(self) -> str:
        return self.names[0] if self.names else "(unused)"

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict that JSON can hold, without the device."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {"names": list(self.names), "shape": list(self.shape), "std": self.std, "dtype": dtype}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Weight:
        """Rebuild a weight from :meth:`to_dict`, on the CPU.

        Raises:
            KeyError, TypeError, ValueError: if the dict does not come from :meth:`to_dict`.
        """
        dtype = getattr(torch, fields["dtype"], None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"unknown dtype {fields['dtype']!r}")
        names, shape = tuple(map(str, fields["names"])), tuple(map(int, fields["shape"]))
        return cls(names, shape, float(fields["std"]), dtype, torch.device("cpu"))


def find_weights(model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[Weight]:
    """List the weights of a model that can be generated, in the order of ``model.named_parameters()``.

    A candidate is a trainable floating-point parameter with two or more dimensions. Everything else stays: biases,
    norms, tensors with one axis longer than 1 such as a (1, 1, C) token, and gains, which start as a non-zero
    constant.

    Args:
        model: The model; it is not changed.
        include: Names or shell patterns of parameters or modules. When given, nothing else is generated.
        exclude: Names or shell patterns of parameters or modules that stay as they are.

    Returns:
        One :class:`Weight` per tensor, tied tensors once.

    Raises:
        ModelError: if a module is not initialised yet, a weight holds NaN or infinity or has sparse gradients, or no
            candidate is left.
        ConfigError: if a name or pattern matches nothing.
    """
    sites: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if isinstance(parameter, UninitializedTensorMixin):
            raise ModelError(f"{name} is not initialised yet (a lazy module); run one forward pass first")
        sites.setdefault(parameter, []).append(name)

    every_name = [name for names in sites.values() for name in names]
    included = set().union(*(match_names(pattern, every_name, "include") for pattern in include)) or set(every_name)
    excluded = set().union(*(match_names(pattern, every_name, "exclude") for pattern in exclude))
    owners, frozen = dict(model.named_modules()), Frozen(model)
    weights = []
    for parameter, names in sites.items():
        # One of its names is enough to include or exclude a tied tensor: it cannot be generated in one place only.
        if not _is_candidate(parameter) or included.isdisjoint(names) or not excluded.isdisjoint(names):
            continue
        owner = owners[names[0].rpartition(".")[0]]
        if isinstance(owner, nn.Embedding | nn.EmbeddingBag) and owner.sparse:
            raise ModelError(
                f"{names[0]} {tuple(parameter.shape)} has sparse gradients, which shared parameters cannot take: build "
                "the embedding with sparse=False, or exclude it"
            )
        std = _starting_std(owner, parameter, names[0])
        if std is not None:
            has_values = std > 0 and not parameter.is_meta and not is_sharded(parameter)
            structure = structure_of(parameter, frozen) if has_values else ""
            shape = tuple(parameter.shape)
            weights.append(Weight(tuple(names), shape, std, parameter.dtype, parameter.device, structure))
    if not weights:
        raise ModelError(
            f"{type(model).__name__} has no weight that could be generated: "
            f"of its {len(sites)} parameters none is trainable, floating-point, of two or more dimensions, "
            "left by include and exclude, and other than a gain (whose entries all start at one non-zero value)"
            + _how_to_adapt(sites)
        )
    return weights


def _how_to_adapt(sites: Mapping[nn.Parameter, Sequence[str]]) -> str:
    """Return what to do about an adapter whose method trains no matrix; nothing for a model that is no adapter."""
    trained = [(names[0], tuple(found.shape)) for found, names in sites.items() if found.requires_grad]
    if not trained or len(trained) == len(sites):
        return ""
    name, shape = trained[0]
    return (
        f". Beside frozen weights it trains {name} {shape}, a vector: an adapter of vectors has nothing to share. Set "
        "its size by its method's own options, or take a method that trains matrices, such as LoRA, and compress that"
    )


def is_weight_shape(shape: Sequence[int]) -> bool:
    """Return whether at least two axes of a parameter are longer than 1, unlike those of a bias or a norm."""
    return math.prod(shape) > max(shape, default=1)


def fan_in_std(module: nn.Module, shape: Sequence[int]) -> float:
    """Return the standard deviation that a layer of this type starts with, without its values.

    Embeddings start as N(0, 1) and everything else as torch's ``kaiming_uniform_(a=sqrt(5))``, whose standard
    deviation is ``1 / sqrt(3 * fan_in)``.

    Args:
        module: The layer that owns the weight.
        shape: The weight's shape, (out, in, ...); GPT-2's ``Conv1D`` stores (in, out).
    """
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return 1.0
    transposed = type(module).__name__ == "Conv1D" and len(shape) == 2
    fan_in = shape[0] if transposed else math.prod(shape[1:])
    return 1 / math.sqrt(3 * fan_in)


@torch.no_grad()
def mean_and_std(values: Tensor) -> tuple[float, float]:
    """Return the mean and the standard deviation (of a population) of a tensor's entries, in few passes over them."""
    # In float32 at least: the variance of a half-precision weight underflows.
    flat = values.reshape(-1).to(torch.promote_types(values.dtype, torch.float32))
    mean = flat.mean().item()
    variance = torch.dot(flat, flat).item() / flat.numel() - mean * mean
    if variance < 1e-3 * mean * mean:  # the difference of two numbers this close is rounding error
        variance = flat.var(correction=0).item()
    return mean, math.sqrt(variance) if variance >= 0 else math.nan


def _is_candidate(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad and parameter.dtype in _DTYPES and is_weight_shape(parameter.shape)


def _starting_std(module: nn.Module, parameter: nn.Parameter, name: str) -> float | None:
    """Measure the deviation that the initialisation gave a weight; None for a gain, which is not generated."""
    if parameter.is_meta:
        return fan_in_std(module, parameter.shape)
    mean, std = mean_and_std(parameter)
    if not (math.isfinite(std) and math.isfinite(mean)):
        raise ModelError(f"{name} {tuple(parameter.shape)} holds NaN or infinite values; repair or exclude it first")
    if mean != 0 and std <= 1e-6 * abs(mean):
        return None
    return std
