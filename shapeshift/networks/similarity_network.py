"""SimNet: how well a phrase fits a part of an image."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift.networks.embedding_network import Branch
from shapeshift.networks.text_encoder import TextEncoder
from shapeshift.networks.trunk import WideTrunk

_POSITION = 5  # numbers


class SimilarityNetwork(nn.Module):
    """A two-branch network whose branches are multiplied and scored.

    Wang, Li, Huang and Lazebnik 2019, "Learning two-branch neural networks for image-text matching tasks", section 3.3.
    The paper reads fixed features of regions; here the convolutions that make them are part of the network.

    Args:
        trunk: makes feature maps of images.
        text: reads phrases.
        text_features: length of what it reads from a phrase.
        hidden: length of each branch's hidden layer.
        embedding: length of what the branches return, and of the hidden layer of the score.
        grid: rows and columns that a region's part of the feature maps is sampled at.
    """

    def __init__(
        self, trunk: WideTrunk, text: TextEncoder, text_features: int, hidden: int, embedding: int, grid: int = 3
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.grid = grid
        self.region_branch = Branch(trunk.out_channels * grid**2 + _POSITION, hidden, embedding)
        self.text = text
        self.text_branch = Branch(text_features, hidden, embedding)
        self.score = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(embedding, embedding, bias=False),
                norm=nn.BatchNorm1d(embedding),
                relu=nn.ReLU(),
                fc2=nn.Linear(embedding, 1),
            )
        )

    def forward(self, images: Tensor, boxes: Tensor, tokens: Tensor, phrase_images: Tensor) -> Tensor:
        """Score each region of a phrase's image.

        Args:
            images: of shape (N, channels, height, width).
            boxes: regions of each image: left, top, right and bottom edge in pixels, of shape (N, R, 4).
            tokens: phrases of shape (P, length).
            phrase_images: the index of each phrase's image, of shape (P,).

        Returns:
            The logits of the probability that a phrase and a region belong together, of shape (P, R).
        """
        height, width = images.shape[2:]
        sides = boxes.new_tensor([width, height, width, height])
        pooled = pool_regions(self.trunk(images), boxes / sides, self.grid)
        features = torch.cat([pooled, _positions(boxes / sides)], dim=2).flatten(0, 1)
        regions = self.region_branch(features).view(*boxes.shape[:2], -1)
        products = regions[phrase_images] * self.text_branch(self.text(tokens))[:, None]
        scores: Tensor = self.score(products.flatten(0, 1)).view(products.shape[:2])
        return scores


def pool_regions(maps: Tensor, boxes: Tensor, grid: int) -> Tensor:
    """Sample feature maps bilinearly in the middles of each region's cells (He et al. 2017, section 3, one per cell).

    Args:
        maps: of shape (N, channels, height, width).
        boxes: left, top, right and bottom edge as shares of the image's sides, of shape (N, R, 4).
        grid: rows and columns of cells.

    Returns:
        The features of the regions, of shape (N, R, channels * grid^2).
    """
    middles = (torch.arange(grid, device=boxes.device, dtype=boxes.dtype) + 0.5) / grid
    corner, extent = boxes[..., :2, None], (boxes[..., 2:] - boxes[..., :2])[..., None]
    x, y = (corner + extent * middles).unbind(2)  # each of shape (N, R, grid)
    # grid_sample counts from -1 to 1; rows of the sampling grid are regions, columns their cells.
    places = torch.stack([x[:, :, None].expand(-1, -1, grid, -1), y[..., None].expand(-1, -1, -1, grid)], dim=-1)
    sampled = F.grid_sample(maps, 2 * places.flatten(2, 3) - 1, padding_mode="border", align_corners=False)
    return sampled.transpose(1, 2).flatten(2)


def _positions(boxes: Tensor) -> Tensor:
    """Return a region's edges and its area as shares of the image's (Wang et al. 2019, section 4.3)."""
    left, top, right, bottom = boxes.unbind(2)
    return torch.stack([left, top, right, bottom, (right - left) * (bottom - top)], dim=2)


def similarity_loss(scores: Tensor, belong: Tensor) -> Tensor:
    """Return the logistic loss of scores (Wang et al. 2019, section 3.3), averaged over pairs of a phrase and a region.

    Args:
        scores: logits of shape (P, R).
        belong: whether a phrase and a region belong together, 1 or 0, or NaN for pairs that do not count.

    Returns:
        A scalar.
    """
    counts = ~belong.isnan()
    return F.binary_cross_entropy_with_logits(scores[counts], belong[counts].to(scores.dtype))
