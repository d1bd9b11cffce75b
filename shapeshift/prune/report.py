"""Pruning reports: parameters and multiply-accumulates of a pruned model, and the channels that each layer kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from shapeshift.budget import count_parameters
from shapeshift.errors import ModelError
from shapeshift.prune.layers import IN, OUT, num_channels, sides_of
from shapeshift.prune.record import Kept, find_pruned, record_of
from shapeshift.running.macs import blank_inputs, count_macs
from shapeshift.text_table import text_table


@dataclass(frozen=True)
class LayerReport:
    """The filters that one convolution, linear or other layer kept.

    Attributes:
        name: The dotted path of the layer.
        before: The number of output channels in the full model.
        kept: The output channels that the layer kept, as numbered in the full model; all of them if it stayed whole.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from shapeshift.prune import hrank, report
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> pruned = hrank(model, [torch.randn(2, 3, 16, 16)], rate=0.5, progress=False)
        >>> layer = report(pruned).layers[0]
        >>> layer.name, layer.before, len(layer.kept)
        ('0', 8, 4)
    """

    name: str
    before: int
    kept: tuple[int, ...]


@dataclass(frozen=True)
class PruningReport:
    """The sizes of a pruned model and of the full one; printing it gives a table.

    Attributes:
        layers: All layers with filters, in the order of the model's modules.
        parameters: The number of trainable parameters.
        macs: The number of multiply-accumulates for one image, of convolutions, matrix products and attention.
        parameters_before: The number of trainable parameters of the full model.
        macs_before: The number of multiply-accumulates of the full model for one image.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from shapeshift.prune import hrank, report
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> pruned = hrank(model, [torch.randn(2, 3, 16, 16)], rate=0.5, progress=False)
        >>> print(report(pruned))
        layer  kept  of
            0     4   8
            2     4   4
        260 parameters, 50.4% of 516
        41,904 multiply-accumulates, 50.0% of 83,808
    """

    layers: tuple[LayerReport, ...]
    parameters: int
    macs: int
    parameters_before: int
    macs_before: int

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a dict that JSON can hold, with ``layers`` as a list of dicts."""
        layers = [{"name": layer.name, "before": layer.before, "kept": list(layer.kept)} for layer in self.layers]
        return {
            "parameters": self.parameters,
            "macs": self.macs,
            "parameters_before": self.parameters_before,
            "macs_before": self.macs_before,
            "layers": layers,
        }

    def __str__(self) -> str:
        rows = [(layer.name, f"{len(layer.kept):,}", f"{layer.before:,}") for layer in self.layers]
        lines = [text_table(("layer", "kept", "of"), rows)]
        for name, now, before in (
            ("parameters", self.parameters, self.parameters_before),
            ("multiply-accumulates", self.macs, self.macs_before),
        ):
            lines.append(f"{now:,} {name}, {now / max(1, before):.1%} of {before:,}")
        return "\n".join(lines)


def report(pruned: nn.Module) -> PruningReport:
    """Report on the size of a pruned model, and on the filters that its layers kept.

    Args:
        pruned: The model that :func:`hrank` returned, also after training, or after saving and loading, or a wrapper
            around it.

    Returns:
        The report, which prints as a table; ``as_dict()`` turns it into a dict.

    Raises:
        ModelError: If the model is not pruned.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from shapeshift.prune import hrank, report
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> pruned = hrank(model, [torch.randn(2, 3, 16, 16)], rate=0.5, progress=False)
        >>> report(pruned).parameters == sum(parameter.numel() for parameter in pruned.parameters())
        True
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
