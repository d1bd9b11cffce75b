"""Boxes in images, and candidates for the part that a phrase is about."""

from __future__ import annotations

import torch
from torch import Tensor

from shapeshift.experiments.data.captions import CaptionedImages

_JITTER = 0.35  # of a box's own sides, the standard deviation of how far a candidate is off it, and of how it is scaled
_EXTENT = 0.1, 0.6  # of the image's sides, those of a random candidate


def overlap(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the intersection over union of boxes, each left, top, right and bottom edge.

    Args:
        boxes: of shape (..., 4), none empty.
        others: of a shape that broadcasts with theirs.

    Returns:
        Shares between 0 and 1, of the broadcast shape without its last dimension.
    """
    corner, opposite = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    common = (opposite - corner).clamp(min=0).prod(-1)
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(-1) + (others[..., 2:] - others[..., :2]).prod(-1)
    return common / (areas - common)


def propose(data: CaptionedImages, candidates: int, seed: int) -> Tensor:
    """Choose candidate boxes in each image: those of its phrases, the same ones moved and scaled, and random ones.

    They stand for the proposals of a detector that finds every object. Half of those that are not a phrase's box are
    random, and all of them where an image has no phrase.

    Args:
        data: a set whose phrases have boxes.
        candidates: in each image; more where the phrases of an image have more boxes than that.
        seed: of all random choices.

    Returns:
        Left, top, right and bottom edge in pixels, of shape (N, candidates, 4).
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
    # In mixed order, so that a place in the list tells nothing.
    return torch.cat(parts)[torch.randperm(count, generator=generator)]


def _near(boxes: Tensor, sides: Tensor, generator: torch.Generator) -> Tensor:
    """Move and scale boxes at random, and keep them inside of the image."""
    extent = boxes[:, 2:] - boxes[:, :2]
    offset, scale = _JITTER * torch.randn(2, len(boxes), 2, generator=generator)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + offset * extent
    return _inside(centre, extent * scale.exp(), sides)


def _anywhere(count: int, sides: Tensor, generator: torch.Generator) -> Tensor:
    centre, extent = torch.rand(2, count, 2, generator=generator)
    return _inside(centre * sides, (_EXTENT[0] + extent * (_EXTENT[1] - _EXTENT[0])) * sides, sides)


def _inside(centre: Tensor, extent: Tensor, sides: Tensor) -> Tensor:
    """Return boxes of an extent, at least a pixel, as near to a centre as they fit into the image."""
    extent = extent.clamp(min=1).minimum(sides)
    centre = centre.maximum(extent / 2).minimum(sides - extent / 2)
    return torch.cat([centre - extent / 2, centre + extent / 2], dim=1)
