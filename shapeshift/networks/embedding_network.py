"""EmbNet: a network that embeds images and sentences in one space, matching ones close to each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift.networks.text_encoder import TextEncoder
from shapeshift.networks.trunk import WideTrunk


class Branch(nn.Module):
    """Two linear layers with batch norm and ReLU between them, and an output of norm 1.

    Wang, Li and Lazebnik 2016, "Learning deep structure-preserving image-text embeddings", section 3.1.

    Args:
        in_features: The length of an input.
        hidden: The length of the hidden layer.
        out_features: The length of an output.
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

    The paper reads fixed features of images. Here the convolutions that compute them are part of the network.

    Args:
        trunk: The convolutions that compute the feature maps of images.
        text: The encoder of sentences.
        text_features: The length of the encoder's output.
        hidden: The length of each branch's hidden layer.
        embedding: The length of an embedding.
        grid: The number of rows and of columns that the feature maps are averaged to. The grid keeps positions.

    Example:
        >>> import torch
        >>> from shapeshift.networks.embedding_network import EmbeddingNetwork
        >>> from shapeshift.networks.text_encoder import TextEncoder
        >>> from shapeshift.networks.trunk import WideTrunk
        >>> text = TextEncoder(vocabulary=100, word_size=16, state_size=24)
        >>> network = EmbeddingNetwork(WideTrunk(10, 0.5), text, text_features=24, hidden=32, embedding=8)
        >>> images, sentences = network(torch.randn(2, 3, 16, 16), torch.randint(100, (5, 7)))
        >>> images.shape, sentences.shape
        (torch.Size([2, 8]), torch.Size([5, 8]))
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
        """Embed images and sentences. Their numbers may differ.

        Args:
            images: The images, of shape (N, channels, height, width).
            tokens: The tokens of the sentences, of shape (S, length).

        Returns:
            The embeddings of the images and of the sentences, of shapes (N, embedding) and (S, embedding). Each has
            norm 1.
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
    """Compute the bidirectional ranking loss with structure preservation of Wang et al. 2016 (section 3, eq. 5).

    It is 0 when every anchor is closer to each of its matches than to everything else, by a margin. A triplet is an
    anchor, a match of it, and an embedding that is no match. The loss is the sum over the hardest triplets of a pair of
    anchor and match, averaged over the pairs. The paper sums over the pairs as well.

    Args:
        images: The embeddings of the images, of shape (N, embedding).
        texts: The embeddings of the texts, of shape (S, embedding).
        matches: Whether an image and a text match, of shape (N, S). Two texts of one image match each other, and so do
            two images of one text.
        margin: The margin between the distances.
        text_weight: The weight of the triplets of a text and two images. Those of an image and two texts have weight 1.
        image_structure: The weight of the triplets of three images.
        text_structure: The weight of the triplets of three texts.
        hardest: The number of triplets of a pair that count, those that violate the margin most, as in the paper. None
            counts all of them, which suits a network that is not pretrained.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> from shapeshift.networks.embedding_network import embedding_loss
        >>> embeddings = torch.eye(4)
        >>> embedding_loss(embeddings, embeddings, matches=torch.eye(4, dtype=torch.bool)).item()
        0.0
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
    """Return the ranking loss of points around anchors: the close ones against all that are not excluded."""
    # The gradient of this form is zero, not infinite, where two points coincide.
    distances = torch.cdist(anchors, points, compute_mode="donot_use_mm_for_euclid_dist")
    anchor, point = close.nonzero(as_tuple=True)
    far = distances.masked_fill(excluded, torch.inf)
    if hardest is not None and hardest < len(points):
        far = far.topk(hardest, largest=False).values
    violations = F.relu(margin + distances[anchor, point, None] - far[anchor])
    return violations.sum() / max(1, len(anchor))
