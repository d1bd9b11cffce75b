"""What became of a pruned model: its parameters, its multiply-accumulates, and the channels that each layer kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from shapeshift.budget import count_parameters
from shapeshift.errors import ModelError
from shapeshift.prune.layers import IN, OUT, num_channels, sides_of
from shapeshift.prune.record import Kept, find_pruned, record_of
from shapeshift.running.macs import blank_inputs, count_macs


@dataclass(frozen=True)
class LayerReport:
    """One convolution, linear or other layer with filters.

    Attributes:
        name: its dotted path.
        before: the number of its output channels in the full model.
        kept: the output channels that it kept, as numbered there; all of them if it was left whole.
    """

    name: str
    before: int
    kept: tuple[int, ...]


@dataclass(frozen=True)
class PruningReport:
    """A pruned model in numbers. Printing it gives a table.

    Attributes:
        layers: all layers with filters.
        parameters: the number of trainable parameters.
        macs: the multiply-accumulates for one image, of convolutions, matrix products and attention.
        parameters_before: the number of trainable parameters of the full model.
        macs_before: the multiply-accumulates of the full model.
    """

    layers: tuple[LayerReport, ...]
    parameters: int
    macs: int
    parameters_before: int
    macs_before: int

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a dict that JSON can hold."""
        layers = [{"name": layer.name, "before": layer.before, "kept": list(layer.kept)} for layer in self.layers]
        return {
            "parameters": self.parameters,
            "macs": self.macs,
            "parameters_before": self.parameters_before,
            "macs_before": self.macs_before,
            "layers": layers,
        }

    def __str__(self) -> str:
        width = max((len(layer.name) for layer in self.layers), default=0)
        lines = [f"{layer.name:<{width}}  {len(layer.kept):>5} of {layer.before}" for layer in self.layers]
        for name, now, before in (
            ("parameters", self.parameters, self.parameters_before),
            ("multiply-accumulates", self.macs, self.macs_before),
        ):
            lines.append(f"{now:,} {name}, {now / max(1, before):.1%} of {before:,}")
        return "\n".join(lines)


def report(pruned: nn.Module) -> PruningReport:
    """Report on a pruned model.

    Args:
        pruned: what :func:`hrank` returned, also after training, saving and loading, or a wrapper around it.

    Returns:
        The report, which is a table when printed, and a dict by ``as_dict()``.

    Raises:
        ModelError: if the model is not pruned.
    """
    root = find_pruned(pruned)
    record = record_of(pruned)
    if root is None or record is None:
        raise ModelError(
            f"{type(pruned).__name__} is not pruned, or only masked; call shapeshift.prune.hrank(model, loader) first"
        )
    layers = []
    for path, module in root.named_modules():
        if IN in sides_of(module):
            size = num_channels(module, OUT)
            kept = record.cuts.get(path, {}).get(OUT, Kept(size, tuple(range(size))))
            layers.append(LayerReport(path, kept.total, kept.indices))
    macs = count_macs(root, blank_inputs(record.inputs, root))
    return PruningReport(tuple(layers), count_parameters(root), macs, record.parameters, record.macs)
