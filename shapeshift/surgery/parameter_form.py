"""What a parameter is beside its values: what a plain model gets back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ParameterForm:
    """The class, the attributes and the memory format of a parameter that is generated now.

    Attributes:
        kind: its class.
        attributes: what was set on it.
        shape: its shape.
        strides: its strides; those of a contiguous tensor if its entries overlap or have gaps between them.
    """

    kind: type[nn.Parameter]
    attributes: Mapping[str, Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, parameter: nn.Parameter) -> Self:
        """Describe a parameter."""
        strides = torch.empty_like(parameter.detach(), device="meta").stride()
        return cls(type(parameter), dict(vars(parameter)), tuple(parameter.shape), strides)

    def parameter(self, values: Tensor, trainable: bool) -> nn.Parameter:
        """Make such a parameter, with a copy of the values."""
        laid_out = values.new_empty_strided(self.shape, self.strides).copy_(values)
        parameter: nn.Parameter = Tensor._make_subclass(self.kind, laid_out, trainable)
        parameter.__dict__.update(self.attributes)
        return parameter
