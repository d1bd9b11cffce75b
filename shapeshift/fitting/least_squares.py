"""Least squares over one part of a generator's parameters, by conjugate gradients through the generator itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shapeshift.fitting.error_maps import ErrorMap
from shapeshift.generators import WeightGenerator
from shapeshift.generators.mixing.buffer_pool import BufferPool

# A solution this close is exact: the squared residual relative to the squared target, in float32.
EXACT = 1e-13

# The number of products with noise from which the scale of each entry is estimated.
_SAMPLES = 16


class LeastSquares:
    r"""The problem :math:`\min \sum_l |M_l(W_l) - M_l(V_l)|^2` over a group's parameters.

    It holds only a few tensors as large as the group's weights, or as the outputs of the error maps.

    Args:
        group: The generator of the weights :math:`W_l`.
        indices: The indices of the weights that are fitted.
        error_maps: The linear maps :math:`M_l`, one for each index.
        weights: The weights to approximate, :math:`V_l`.
    """

    def __init__(
        self,
        group: WeightGenerator[Any],
        indices: Sequence[int],
        error_maps: Sequence[ErrorMap],
        weights: Sequence[Tensor],
    ) -> None:
        self.group = group
        self.indices = indices
        self.error_maps = error_maps
        self.targets = [error_map(weight) for error_map, weight in zip(error_maps, weights, strict=True)]
        self.memory = BufferPool(keeps_all=True)
        self._scales: dict[int, list[Tensor]] = {}
        self.scale = _dot(self.targets, self.targets)

    def generate(self) -> list[Tensor]:
        """Return the generated weights under their error maps."""
        weights = self.group.generate(self.indices, self.memory)
        return [error_map(weight) for error_map, weight in zip(self.error_maps, weights, strict=True)]

    def solve(self, part: Sequence[nn.Parameter], steps: int, tolerance: float) -> float:
        """Minimise over parameters in which the weights are linear, starting from their present values.

        The method is preconditioned conjugate gradients on the normal equations (CGLS: Björck, "Numerical Methods for
        Least Squares Problems", 1996, section 7.4). The operator is the generator, and its adjoint is the generator's
        backward pass.

        Args:
            part: The parameters to solve for. All others are constants.
            steps: The largest number of steps.
            tolerance: The fraction of the squared residual that a step has to remove for another one to follow.

        Returns:
            The squared residual, relative to that of weights of zeros.
        """
        with torch.no_grad():
            found = [parameter.clone() for parameter in part]
            residuals = [target - made for target, made in zip(self.targets, self.generate(), strict=True)]
            offsets = self._offsets(part)
        loss = _dot(residuals, residuals)
        made = self._with_graph(part, found)
        scales = self._scale(part, made)
        direction, norm = None, 0.0
        for _ in range(steps):
            if loss <= EXACT * self.scale:
                break
            gradient = _adjoint(made, part, residuals)
            scaled = [slope * scale for slope, scale in zip(gradient, scales, strict=True)]
            squared = _dot(gradient, scaled)
            if squared == 0:
                break
            if direction is None:
                direction = scaled
            else:
                direction = [new.add_(old, alpha=squared / norm) for new, old in zip(scaled, direction, strict=True)]
            norm = squared
            made = self._with_graph(part, direction)
            changes = [change.detach() for change in made]
            if offsets is not None:
                changes = [change - offset for change, offset in zip(changes, offsets, strict=True)]
            length = _dot(changes, changes)
            if length == 0:
                break
            step = norm / length
            for value, towards in zip(found, direction, strict=True):
                value.add_(towards, alpha=step)
            for residual, change in zip(residuals, changes, strict=True):
                residual.sub_(change, alpha=step)
            before, loss = loss, _dot(residuals, residuals)
            if before - loss < tolerance * before:
                break
        _write(part, found)
        return loss / self.scale

    def _offsets(self, part: Sequence[nn.Parameter]) -> list[Tensor] | None:
        """Return the contribution of the parameters outside of a part, such as a bias, or None if it is zero."""
        _write(part, [torch.zeros_like(parameter) for parameter in part])
        offsets = self.generate()
        return offsets if any(offset.any() for offset in offsets) else None

    def _scale(self, part: Sequence[nn.Parameter], made: Sequence[Tensor]) -> list[Tensor]:
        """Estimate the scales at which all entries of a part change the weights equally.

        The squared norm of a column of the operator is the mean square of the column's product with noise (Bekas et
        al., "An estimator for the diagonal of a matrix", 2007). The estimate is reused in later rounds. The noise is
        Gaussian, since random signs can cancel in all samples where templates overlap.
        """
        key = id(part[0])
        if key not in self._scales:
            generator = torch.Generator(made[0].device).manual_seed(0)
            sums = [torch.zeros_like(parameter) for parameter in part]
            for _ in range(_SAMPLES):
                noise = [torch.empty_like(one).normal_(generator=generator) for one in made]
                for total, product in zip(sums, _adjoint(made, part, noise), strict=True):
                    total += product.square()
            self._scales[key] = [torch.where(total > 0, _SAMPLES / total, 0.0) for total in sums]
        return self._scales[key]

    def _with_graph(self, part: Sequence[nn.Parameter], values: Sequence[Tensor]) -> list[Tensor]:
        """Generate from the given values of a part, with a graph to that part alone."""
        _write(part, values)
        kept = {id(parameter) for parameter in part}
        try:
            for parameter in self.group.parameters():
                parameter.requires_grad_(id(parameter) in kept)
            with torch.enable_grad():
                return self.generate()
        finally:
            self.group.requires_grad_(True)


def _adjoint(made: Sequence[Tensor], part: Sequence[nn.Parameter], values: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Multiply by the adjoint operator: the backward pass from the generated weights to a part."""
    # Not every weight depends on every part: masks, for example, belong to stretched weights.
    dependent = [(one, value) for one, value in zip(made, values, strict=True) if one.requires_grad]
    if not dependent:
        return tuple(torch.zeros_like(parameter) for parameter in part)
    outputs, grads = zip(*dependent, strict=True)
    return torch.autograd.grad(outputs, list(part), grads, retain_graph=True, materialize_grads=True)


@torch.no_grad()
def _write(part: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(part, values, strict=True):
        parameter.copy_(value)


def _dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    # The product of two tensors is accurate enough in their own precision. The sum over tensors is in float64.
    products = [torch.dot(one.reshape(-1), other.reshape(-1)) for one, other in zip(left, right, strict=True)]
    return torch.stack(products).double().sum().item()
