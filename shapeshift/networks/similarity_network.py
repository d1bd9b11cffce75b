"""SimNet: a network that scores the fit of a phrase and a region of an image."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift.networks.embedding_network import Branch
from shapeshift.networks.text_encoder import TextEncoder
from shapeshift.networks.trunk import WideTrunk

_POSITION = 5  # the features of a region's position


class SimilarityNetwork(nn.Module):
    """A two-branch network that scores the product of a region's and a phrase's embedding.

    Wang, Li, Huang and Lazebnik 2019, "Learning two-branch neural networks for image-text matching tasks", section 3.3.
    The paper reads fixed features of regions. Here the convolutions that compute them are part of the network.

    Args:
        trunk: The convolutions that compute the feature maps of images.
        text: The encoder of phrases.
        text_features: The length of the encoder's output.
        hidden: The length of each branch's hidden layer.
        embedding: The length of the branches' outputs, and of the hidden layer of the score.
        grid: The number of rows and of columns at which the feature maps of a region are sampled.

    Example:
        >>> import torch
        >>> from shapeshift.networks.similarity_network import SimilarityNetwork
        >>> from shapeshift.networks.text_encoder import TextEncoder
        >>> from shapeshift.networks.trunk import WideTrunk
        >>> text = TextEncoder(vocabulary=100, word_size=16, state_size=24)
        >>> network = SimilarityNetwork(WideTrunk(10, 0.5), text, text_features=24, hidden=32, embedding=8)
        >>> images, tokens = torch.randn(2, 3, 16, 16), torch.randint(100, (5, 7))
        >>> boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [4.0, 4.0, 16.0, 16.0], [0.0, 0.0, 16.0, 16.0]]).expand(2, 3, 4)
        >>> network(images, boxes, tokens, phrase_images=torch.tensor([0, 0, 0, 1, 1])).shape
        torch.Size([5, 3])
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
        """Score all regions of each phrase's image.

        Args:
            images: The images, of shape (N, channels, height, width).
            boxes: The left, top, right and bottom edge of each image's regions in pixels, of shape (N, R, 4).
            tokens: The tokens of the phrases, of shape (P, length).
            phrase_images: The index of each phrase's image, of shape (P,).

        Returns:
            The logits of the probability that a phrase and a region match, of shape (P, R).
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
    """Sample feature maps bilinearly in the middle of each cell of a region (He et al. 2017, section 3, "RoIAlign").

    Args:
        maps: The feature maps, of shape (N, channels, height, width).
        boxes: The left, top, right and bottom edge of each image's regions, as fractions of the image's width and
            height, of shape (N, R, 4).
        grid: The number of rows and of columns of cells in a region.

    Returns:
        The features of the regions, of shape (N, R, channels * grid^2).

    Example:
        >>> import torch
        >>> from shapeshift.networks.similarity_network import pool_regions
        >>> left_half = torch.tensor([[[0.0, 0.0, 0.5, 1.0]]])
        >>> maps = torch.tensor([[[[1.0, 1.0, 5.0, 5.0]] * 4]])
        >>> pool_regions(maps, left_half, grid=1)
        tensor([[[1.]]])
    """
    middles = (torch.arange(grid, device=boxes.device, dtype=boxes.dtype) + 0.5) / grid
    corner, extent = boxes[..., :2, None], (boxes[..., 2:] - boxes[..., :2])[..., None]
    x, y = (corner + extent * middles).unbind(2)  # each of shape (N, R, grid)
    # grid_sample counts from -1 to 1; rows of the sampling grid are regions, columns their cells.
    places = torch.stack([x[:, :, None].expand(-1, -1, grid, -1), y[..., None].expand(-1, -1, -1, grid)], dim=-1)
    sampled = F.grid_sample(maps, 2 * places.flatten(2, 3) - 1, padding_mode="border", align_corners=False)
    return sampled.transpose(1, 2).flatten(2)


def _positions(boxes: Tensor) -> Tensor:
    """Return a region's edges and its area as fractions of the image's (Wang et al. 2019, section 4.3)."""
    left, top, right, bottom = boxes.unbind(2)
    return torch.stack([left, top, right, bottom, (right - left) * (bottom - top)], dim=2)


def similarity_loss(scores: Tensor, belong: Tensor) -> Tensor:
    """Compute the mean logistic loss of scores of phrases and regions (Wang et al. 2019, section 3.3).

    Args:
        scores: The logits, of shape (P, R).
        belong: 1 where a phrase and a region match, 0 where they do not, and NaN for pairs that do not count, of shape
            (P, R).

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> from shapeshift.networks.similarity_network import similarity_loss
        >>> scores = torch.tensor([[20.0, -20.0, 3.0]])
        >>> similarity_loss(scores, torch.tensor([[1.0, 0.0, torch.nan]])).item() < 1e-6
        True
    """
    counts = ~belong.isnan()
    return F.binary_cross_entropy_with_logits(scores[counts], belong[counts].to(scores.dtype))
