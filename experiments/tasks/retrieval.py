"""Retrieval: find the sentence of an image and the image of a sentence; training and recall."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shapeshift.experiments.data.captions import CaptionedImages
from shapeshift.experiments.training import Recipe, fit
from shapeshift.networks.embedding_network import embedding_loss

RANKS = 1, 5, 10  # the ranks of the recalls

_MARGIN = 0.2  # the margin of the loss; distances are at most 2
_SENTENCES = 2  # sentences of an image in a step, so that the loss can keep sentences of one image together


def train_retrieval(model: nn.Module, data: CaptionedImages, recipe: Recipe, seed: int) -> None:
    """Train a network in place to embed images close to their sentences (Wang et al. 2016), on its own device.

    Args:
        model: A network that maps images and tokens to their embeddings, such as an
            :class:`~shapeshift.networks.embedding_network.EmbeddingNetwork`.
        data: The training set, on any device.
        recipe: The optimizer and its settings.
        seed: The seed of the order of the images, and of the sentences chosen in each step.

    Example:
        >>> from pathlib import Path
        >>> from shapeshift.experiments.data.scenes import scenes
        >>> from shapeshift.experiments.tasks.retrieval import train_retrieval
        >>> from shapeshift.experiments.training import Recipe
        >>> from shapeshift.networks.embedding_network import EmbeddingNetwork
        >>> from shapeshift.networks.text_encoder import TextEncoder
        >>> from shapeshift.networks.trunk import WideTrunk
        >>> training, _ = scenes(Path("data"), train=8, test=1)
        >>> text = TextEncoder(len(training.vocabulary), word_size=8, state_size=8)
        >>> model = EmbeddingNetwork(WideTrunk(10, 0.25), text, text_features=8, hidden=16, embedding=8)
        >>> train_retrieval(model, training, Recipe(epochs=1, learning_rate=0.01, optimizer="adamw"), seed=0)
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    images, tokens = data.images.to(device), data.sentences.tokens.to(device)
    counts = data.sentences.images.bincount(minlength=len(data))
    by_image = data.sentences.images.argsort(stable=True)
    first = counts.cumsum(0) - counts

    def loss(batch: Tensor) -> Tensor:
        start = (torch.rand(len(batch), generator=generator) * counts[batch]).long()
        # Neighbours in the list of an image's sentences. They differ if the image has two or more.
        chosen = (start[:, None] + torch.arange(_SENTENCES)) % counts[batch, None]
        sentences = by_image[first[batch, None] + chosen].flatten()
        embedded_images, embedded_sentences = model(images[batch.to(device)], tokens[sentences.to(device)])
        matches = batch[:, None] == data.sentences.images[sentences]
        return embedding_loss(embedded_images, embedded_sentences, matches.to(device), _MARGIN)

    fit(model, len(data), loss, recipe, seed)


@torch.inference_mode()
def embed(model: nn.Module, data: CaptionedImages, batch_size: int = 256) -> tuple[Tensor, Tensor]:
    """Return the embeddings of all images and of all sentences, in evaluation mode, on the CPU."""
    model.eval()
    device = next(model.parameters()).device
    parts = -(-len(data) // batch_size)
    pairs = zip(data.images.tensor_split(parts), data.sentences.tokens.tensor_split(parts), strict=True)
    images, texts = zip(*(model(images.to(device), tokens.to(device)) for images, tokens in pairs), strict=True)
    return torch.cat(images).cpu(), torch.cat(texts).cpu()


def recall(similarities: Tensor, matches: Tensor, rank: int) -> float:
    """Return the share of queries with a match among their most similar candidates, in percent.

    A candidate that is as similar as the best match counts as more similar. So a network that gives all candidates the
    same similarity has a recall of zero.

    Args:
        similarities: The similarities of Q queries and C candidates, of shape (Q, C).
        matches: Whether a query and a candidate belong together, boolean and of shape (Q, C). Each query has at least
            one match.
        rank: The number of most similar candidates to look at.

    Returns:
        The recall in percent.

    Example:
        >>> import torch
        >>> from shapeshift.experiments.tasks.retrieval import recall
        >>> similarities = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.2, 0.1]])
        >>> matches = torch.tensor([[True, False, False], [False, True, False]])
        >>> recall(similarities, matches, rank=1), recall(similarities, matches, rank=2)
        (50.0, 100.0)
    """
    best = similarities.masked_fill(~matches, -torch.inf).amax(1, keepdim=True)
    # Not `>=`: a network that diverged gives NaN, which compares as False, and must have a recall of zero.
    ahead = (~(similarities < best) & ~matches).sum(1)
    return (ahead < rank).float().mean().item() * 100


def retrieval_recalls(model: nn.Module, data: CaptionedImages) -> dict[str, float]:
    """Measure the recalls of a network on a test set (Wang et al. 2016, section 4).

    Args:
        model: A network that maps images and tokens to their embeddings. It is put into evaluation mode.
        data: The test set.

    Returns:
        Recalls in percent at ranks 1, 5 and 10 by name. ``sentences_at_1`` and so on are those of the sentences of an
        image, ``images_at_1`` and so on those of the image of a sentence, and ``mean_recall`` is the mean of the six.

    Example:
        >>> from pathlib import Path
        >>> from shapeshift.experiments.data.scenes import scenes
        >>> from shapeshift.experiments.tasks.retrieval import retrieval_recalls
        >>> from shapeshift.networks.embedding_network import EmbeddingNetwork
        >>> from shapeshift.networks.text_encoder import TextEncoder
        >>> from shapeshift.networks.trunk import WideTrunk
        >>> training, _ = scenes(Path("data"), train=8, test=1)
        >>> text = TextEncoder(len(training.vocabulary), word_size=8, state_size=8)
        >>> model = EmbeddingNetwork(WideTrunk(10, 0.25), text, text_features=8, hidden=16, embedding=8)
        >>> recalls = retrieval_recalls(model, training)
        >>> list(recalls)[:3]
        ['mean_recall', 'sentences_at_1', 'sentences_at_5']
    """
    images, texts = embed(model, data)
    similarities = images @ texts.T
    matches = torch.arange(len(images))[:, None] == data.sentences.images
    found = {f"sentences_at_{rank}": recall(similarities, matches, rank) for rank in RANKS}
    found |= {f"images_at_{rank}": recall(similarities.T, matches.T, rank) for rank in RANKS}
    return {"mean_recall": sum(found.values()) / len(found), **found}
