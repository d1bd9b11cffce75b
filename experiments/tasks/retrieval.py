"""Finding the sentence of an image and the image of a sentence: training and recall."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shapeshift.experiments.data.captions import CaptionedImages
from shapeshift.experiments.training import Recipe, fit
from shapeshift.networks.embedding_network import embedding_loss

RANKS = 1, 5, 10  # that recall is measured at

_MARGIN = 0.2  # between distances of at most 2
_SENTENCES = 2  # of an image in a step, so that there are neighbours whose structure can be preserved


def train_retrieval(model: nn.Module, data: CaptionedImages, recipe: Recipe, seed: int) -> None:
    """Train a network in place to embed images close to their sentences, on the device that its parameters are on.

    Args:
        model: maps images and tokens to their embeddings, as an
            :class:`~shapeshift.networks.embedding_network.EmbeddingNetwork` does.
        data: the training set, on any device.
        recipe: how.
        seed: of the order of the images, and of which of their sentences are read.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    images, tokens = data.images.to(device), data.sentences.tokens.to(device)
    counts = data.sentences.images.bincount(minlength=len(data))
    by_image = data.sentences.images.argsort(stable=True)
    first = counts.cumsum(0) - counts

    def loss(batch: Tensor) -> Tensor:
        start = (torch.rand(len(batch), generator=generator) * counts[batch]).long()
        # Neighbours in the list of an image's sentences, which are different ones where there are two.
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
    """Return the share of rows in which something that matches is among the most similar, in percent.

    What is as similar as the best match counts as ahead of it, so that a network that finds everything alike finds
    nothing.

    Args:
        similarities: of queries to candidates, of shape (Q, C).
        matches: whether they belong together, of shape (Q, C); at least one candidate for each query.
        rank: how many of the most similar candidates are looked at.
    """
    best = similarities.masked_fill(~matches, -torch.inf).amax(1, keepdim=True)
    # Not `>=`, since a network that diverged finds nothing either: NaN compares with nothing.
    ahead = (~(similarities < best) & ~matches).sum(1)
    return (ahead < rank).float().mean().item() * 100


def retrieval_recalls(model: nn.Module, data: CaptionedImages) -> dict[str, float]:
    """Measure how often a network finds what belongs together in a test set.

    Returns:
        Recall in percent at ranks 1, 5 and 10, ``sentences_at_1`` and so on where sentences of an image are looked for
        and ``images_at_1`` and so on where a sentence's image is, and ``mean_recall``, the mean of the six.
    """
    images, texts = embed(model, data)
    similarities = images @ texts.T
    matches = torch.arange(len(images))[:, None] == data.sentences.images
    found = {f"sentences_at_{rank}": recall(similarities, matches, rank) for rank in RANKS}
    found |= {f"images_at_{rank}": recall(similarities.T, matches.T, rank) for rank in RANKS}
    return {"mean_recall": sum(found.values()) / len(found), **found}
