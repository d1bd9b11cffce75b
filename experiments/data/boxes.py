"""Boxes in images: their overlap, and candidate boxes for phrases."""

from __future__ import annotations

import torch
from torch import Tensor

from shapeshift.experiments.data.captions import CaptionedImages

# The standard deviation of the offset of a moved candidate, as a share of the box's sides, and of the log of its scale.
_JITTER = 0.35
_EXTENT = 0.1, 0.6  # the least and the largest side of a random candidate, as a share of the image's side


def overlap(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the intersection over union of boxes, each given by its left, top, right and bottom edge.

    Args:
        boxes: Boxes of shape (..., 4). None is empty.
        others: Boxes of a shape that broadcasts with that of ``boxes``.

    Returns:
        Shares between 0 and 1. The shape is the broadcast one without its last dimension.
    """
    corner, opposite = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    common = (opposite - corner).clamp(min=0).prod(-1)
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(-1) + (others[..., 2:] - others[..., :2]).prod(-1)
    return common / (areas - common)


def propose(data: CaptionedImages, candidates: int, seed: int) -> Tensor:
    """Choose candidate boxes in each image: the boxes of its phrases, moved and scaled copies, and random boxes.

    The candidates stand for the proposals of a detector that finds every object. Of the candidates that are not the box
    of a phrase, half are random; all are random where an image has no phrase.

    Args:
        data: A set whose phrases have boxes.
        candidates: The number of candidates of each image. If the phrases of an image have more boxes than that, all
            images get as many candidates as that image has boxes.
        seed: The seed of all random choices.

    Returns:
        Left, top, right and bottom edges in pixels, of shape (N, candidates, 4).

    Example:
        >>> from pathlib import Path
        >>> from shapeshift.experiments.data.boxes import propose
        >>> from shapeshift.experiments.data.scenes import scenes
        >>> training, _ = scenes(Path("data"), train=4, test=1)
        >>> propose(training, candidates=16, seed=0).shape
        torch.Size([4, 16, 4])
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = data.images.shape[2:]
    sides = torch.tensor([width, height], dtype=torch.float32)
    true = [data.phrases.boxes[data.phrases.images == index].unique(dim=0) for index in range(len(data))]
    candidates = max(candidates, *map(len, true))
    return torch.stack([_candidates(boxes, candidates, sides, generator) for boxes in true])


def _candidates(true: Tensor, count: int, sides: Tensor, generator: torch.Generator) -> Tensor:
    moved = (count - len(true)) // 2 if len(true) else 0
    parts = [true, _anywhere(count - len(true) - moved, sides, generator)]
    if moved:
        parts.append(_near(true[torch.randint(len(true), (moved,), generator=generator)], sides, generator))
    # Shuffled, so that the place in the list does not give the right box away.
    return torch.cat(parts)[torch.randperm(count, generator=generator)]


def _near(boxes: Tensor, sides: Tensor, generator: torch.Generator) -> Tensor:
    """Move and scale boxes at random, and keep them inside the image."""
    extent = boxes[:, 2:] - boxes[:, :2]
    offset, scale = _JITTER * torch.randn(2, len(boxes), 2, generator=generator)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + offset * extent
    return _inside(centre, extent * scale.exp(), sides)


def _anywhere(count: int, sides: Tensor, generator: torch.Generator) -> Tensor:
    centre, extent = torch.rand(2, count, 2, generator=generator)
    return _inside(centre * sides, (_EXTENT[0] + extent * (_EXTENT[1] - _EXTENT[0])) * sides, sides)


def _inside(centre: Tensor, extent: Tensor, sides: Tensor) -> Tensor:
    """Return boxes of the given sides, at least a pixel each, as close to the given centres as the image allows."""
    extent = extent.clamp(min=1).minimum(sides)
    centre = centre.maximum(extent / 2).minimum(sides - extent / 2)
    return torch.cat([centre - extent / 2, centre + extent / 2], dim=1)
