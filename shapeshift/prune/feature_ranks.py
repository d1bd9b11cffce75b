"""Feature ranks: the mean rank of each filter's feature maps, by which HRank orders filters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shapeshift.errors import ConfigError, ModelError
from shapeshift.extras import progress_bar
from shapeshift.names import did_you_mean
from shapeshift.prune.maps import FILTERED, MapTracer
from shapeshift.prune.ranks import matrix_ranks
from shapeshift.running.batches import Batches, Inputs, device_of, read_batch
from shapeshift.running.modes import evaluating
from shapeshift.running.wrappers import wrapped_attribute
from shapeshift.surgery.roots import is_compressed


def feature_ranks(
    model: nn.Module, loader: Iterable[Any], layers: Sequence[str] | None = None, *, progress: bool = True
) -> dict[str, Tensor]:
    """Measure the mean rank of each channel's feature map over images (Lin et al. 2020, eq. 4).

    Maps are taken as the next layer reads them: after norm, sum, concatenation and activation. So the second
    convolution of a residual block has the maps of the block. Convolutions whose outputs are summed before the
    activation, as with a projected shortcut, have the same maps and are listed once, under the first.

    Args:
        model: The plain model. It runs in evaluation mode, without gradients, and is not changed.
        loader: Batches ``x``, ``(x, y)`` or dicts of keyword arguments, of images of shape (N, C, H, W). The paper
            takes 500 images.
        layers: The dotted paths of the layers to measure. A convolution or linear layer is measured as described above,
            and any other module, such as a block, at its output. None measures all convolutions and linear layers whose
            maps have more than one pixel.
        progress: Whether to show a progress bar.

    Returns:
        The mean ranks of each layer, float32 of shape (channels,) on the CPU, in the order in which the layers run.

    Raises:
        ConfigError: If a layer is unknown.
        DataError: If the loader is empty, or yields no tensors.
        ModelError: If the model is compressed or wrapped, a layer has no feature maps, or maps are not finite.
        MissingExtraError: If the progress bar is asked for and tqdm is not installed.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from shapeshift.prune import feature_ranks
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> images = torch.randn(2, 3, 16, 16)
        >>> ranks = feature_ranks(model, [images], progress=False)
        >>> {layer: tuple(values.shape) for layer, values in ranks.items()}
        {'0': (8,), '2': (4,)}
    """
    check_plain(model)
    batches: Iterable[Any] = Batches(loader)
    device = device_of(model)
    if progress:
        batches = progress_bar(iterable=batches, desc="feature ranks", unit="batch")
    return measure_ranks(model, (read_batch(batch, device) for batch in batches), layers)


def measure_ranks(model: nn.Module, batches: Iterable[Inputs], layers: Sequence[str] | None) -> dict[str, Tensor]:
    """Measure ranks as :func:`feature_ranks` does, given the model's arguments for each batch."""
    modules = dict(model.named_modules())
    if layers is None:
        names = [path for path, module in modules.items() if isinstance(module, FILTERED)]
    else:
        names = known_layers(layers, modules, "layers")
    chosen = {path: modules[path] for path in names}
    sums: dict[str, Tensor | int] = {}
    images: Counter[str] = Counter()

    def measure(paths: Sequence[str], maps: Tensor) -> None:
        if layers is None:
            paths = paths[:1] if maps.shape[-1] * maps.shape[-2] > 1 else []
        if not paths:
            return
        ranks = matrix_ranks(maps).cpu()
        if (ranks < 0).any():
            raise ModelError(f"the feature maps of {paths[0]} hold values that are not finite, so they have no rank")
        for path in paths:
            sums[path] = sums.get(path, 0) + ranks.sum(0)
            images[path] += len(maps)

    tracer = MapTracer(chosen, measure)
    with evaluating(model):
        for inputs in batches:
            tracer.run(model, inputs)
    order = [path for path in tracer.order if path in sums] if layers is None else list(chosen)
    missing = [path for path in order if path not in sums]
    if missing:
        kind = type(chosen[missing[0]]).__name__
        raise ModelError(
            f"{missing[0]} ({kind}) has no feature maps: ranks need an output of shape (N, C, H, W) or (N, H, W, C), "
            "or the tokens of an image, in the forward pass"
        )
    if not order:
        raise ModelError(f"{type(model).__name__} has no layer with feature maps of more than one pixel")
    return {path: (torch.as_tensor(sums[path]).double() / images[path]).float() for path in order}


def check_plain(model: nn.Module) -> None:
    """Refuse a compressed model, whose layers have no filters of their own, and a wrapper, which cannot be copied.

    Raises:
        ModelError: If the model is one of them.
    """
    inner = wrapped_attribute(model)
    if inner is not None:
        raise ModelError(f"{type(model).__name__} wraps the model: prune model.{inner}, and wrap the pruned model")
    if is_compressed(model):
        raise ModelError(
            "the model is compressed: its filters are generated from shared parameters and cannot be removed one by "
            "one. Call shapeshift.materialize(model) first"
        )


def known_layers(names: Iterable[str], known: Iterable[str], field: str) -> list[str]:
    """Return names of layers as a list, after a check that all of them are known.

    Args:
        names: The names that the user gave.
        known: The known names.
        field: The argument that holds the names, for the error.

    Raises:
        ConfigError: If a name is unknown. The error lists similar names.
    """
    if isinstance(names, str):
        raise ConfigError(f"{field}: give a list of names, not the string {names!r}")
    names, known = list(names), [name for name in known if name]
    for name in names:
        if name not in known:
            raise ConfigError(f"{field}: {name!r} is no layer that can be chosen here{did_you_mean(str(name), known)}")
    return names
