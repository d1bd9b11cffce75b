"""EmbNet: images and sentences in one space, where those that belong together are close."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift.networks.text_encoder import TextEncoder
from shapeshift.networks.trunk import WideTrunk


class Branch(nn.Module):
    """Two fully connected layers with batch norm and ReLU between them, and a result of length 1 (section 3.1).

    Wang, Li and Lazebnik 2016, "Learning deep structure-preserving image-text embeddings".

    Args:
        in_features: length of what enters.
        hidden: length of what is between the layers.
        out_features: length of what is returned.
    """

    def __init__(self, in_features: int, hidden: int, out_features: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden, bias=False)
        self.norm = nn.BatchNorm1d(hidden)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(hidden, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.fc2(self.relu(self.norm(self.fc1(x)))), dim=-1)


class EmbeddingNetwork(nn.Module):
    """A two-branch network that embeds images and sentences (Wang et al. 2016, section 3.1).

    The papers read fixed features of images; here the convolutions that make them are part of the network.

    Args:
        trunk: makes feature maps of images.
        text: reads sentences.
        text_features: length of what it reads from a sentence.
        hidden: length of each branch's hidden layer.
        embedding: length of an embedding.
        grid: rows and columns that the feature maps are averaged to, which keeps where things are.
    """

    def __init__(
        self, trunk: WideTrunk, text: TextEncoder, text_features: int, hidden: int, embedding: int, grid: int = 3
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.pool = nn.AdaptiveAvgPool2d(grid)
        self.image_branch = Branch(trunk.out_channels * grid**2, hidden, embedding)
        self.text = text
        self.text_branch = Branch(text_features, hidden, embedding)

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Embed images and sentences, of which there need not be equally many.

        Args:
            images: of shape (N, channels, height, width).
            tokens: of shape (S, length).

        Returns:
            The embeddings of both, of shapes (N, embedding) and (S, embedding), each of length 1.
        """
        maps = self.pool(self.trunk(images))
        return self.image_branch(torch.flatten(maps, 1)), self.text_branch(self.text(tokens))


def embedding_loss(
    images: Tensor,
    texts: Tensor,
    matches: Tensor,
    margin: float = 0.1,
    text_weight: float = 2.0,
    image_structure: float = 0.0,
    text_structure: float = 0.2,
    hardest: int | None = None,
) -> Tensor:
    """Return how far embeddings are from keeping what belongs together closer than what does not, by a margin.

    The bidirectional ranking loss with structure preservation of Wang et al. 2016 (section 3, eq. 5). Its triplets are
    an anchor, something that belongs to the anchor, and something that does not. They are summed over the hardest of
    the latter, and averaged over pairs of the former, where the paper sums.

    Args:
        images: embeddings of shape (N, embedding).
        texts: embeddings of shape (S, embedding).
        matches: whether an image and a text belong together, of shape (N, S). Two texts of one image are neighbours, as
            are two images of one text.
        margin: by which distances are to differ.
        text_weight: of the triplets whose anchor is a text and whose others are images; those the other way round
            count once.
        image_structure: weight of the triplets of three images.
        text_structure: weight of the triplets of three texts.
        hardest: how many triplets count of each pair, those that violate the margin most, as in the paper; None for
            all, which is what a network can learn from that is not pretrained.

    Returns:
        A scalar.
    """
    loss = _ranking(images, texts, matches, matches, margin, hardest)
    loss = loss + text_weight * _ranking(texts, images, matches.T, matches.T, margin, hardest)
    counts = matches.to(images.dtype)
    for weight, points, shared in (
        (image_structure, images, counts @ counts.T),
        (text_structure, texts, counts.T @ counts),
    ):
        if weight:
            related = shared > 0
            others = ~torch.eye(len(points), dtype=torch.bool, device=points.device)
            loss = loss + weight * _ranking(points, points, related & others, related | ~others, margin, hardest)
    return loss


def _ranking(
    anchors: Tensor, points: Tensor, close: Tensor, excluded: Tensor, margin: float, hardest: int | None
) -> Tensor:
    """Rank points around anchors: those that are to be close before those that are not excluded."""
    # The gradient of this form is zero, not infinite, where two points coincide.
    distances = torch.cdist(anchors, points, compute_mode="donot_use_mm_for_euclid_dist")
    anchor, point = close.nonzero(as_tuple=True)
    far = distances.masked_fill(excluded, torch.inf)
    if hardest is not None and hardest < len(points):
        far = far.topk(hardest, largest=False).values
    violations = F.relu(margin + distances[anchor, point, None] - far[anchor])
    return violations.sum() / max(1, len(anchor))
