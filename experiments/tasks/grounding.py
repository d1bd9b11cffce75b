"""Grounding: find the part of an image that a phrase names; training and accuracy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shapeshift.errors import DataError
from shapeshift.experiments.data.boxes import overlap, propose
from shapeshift.experiments.data.captions import CaptionedImages
from shapeshift.experiments.training import Recipe, fit
from shapeshift.networks.similarity_network import similarity_loss

CANDIDATES = 16  # the least number of candidate boxes of an image

FOUND = 0.5  # the least intersection over union of a right box

# A candidate matches a phrase if its overlap with the phrase's box is at least the second value, and does not match if
# it is less than the first. Candidates in between are not trained on.
_BELONGS = 0.3, 0.6


def train_grounding(
    model: nn.Module, data: CaptionedImages, recipe: Recipe, seed: int, candidates: int = CANDIDATES
) -> None:
    """Train a network in place to score the boxes of a phrase above others (Wang et al. 2019), on its own device.

    Args:
        model: A network that maps images, boxes, tokens and the images of the tokens to scores, such as a
            :class:`~shapeshift.networks.similarity_network.SimilarityNetwork`.
        data: The training set, on any device.
        recipe: The optimizer and its settings.
        seed: The seed of the candidates and of the order of the images.
        candidates: The least number of candidate boxes of an image.

    Raises:
        DataError: if the set has no phrases.

    Example:
        >>> from pathlib import Path
        >>> from shapeshift.experiments.data.scenes import scenes
        >>> from shapeshift.experiments.tasks.grounding import train_grounding
        >>> from shapeshift.experiments.training import Recipe
        >>> from shapeshift.networks.similarity_network import SimilarityNetwork
        >>> from shapeshift.networks.text_encoder import TextEncoder
        >>> from shapeshift.networks.trunk import WideTrunk
        >>> training, _ = scenes(Path("data"), train=8, test=1)
        >>> text = TextEncoder(len(training.vocabulary), word_size=8, state_size=8)
        >>> model = SimilarityNetwork(WideTrunk(10, 0.25), text, text_features=8, hidden=16, embedding=8)
        >>> train_grounding(model, training, Recipe(epochs=1, learning_rate=0.01, optimizer="adamw"), seed=0)
    """
    named = _with_phrases(data)
    device = next(model.parameters()).device
    boxes = propose(data, candidates, seed)
    images, all_boxes = data.images.to(device), boxes.to(device)
    shares = overlap(boxes[data.phrases.images], data.phrases.boxes[:, None])
    belong = torch.where(shares >= _BELONGS[1], 1.0, torch.where(shares < _BELONGS[0], 0.0, torch.nan)).to(device)

    def loss(batch: Tensor) -> Tensor:
        phrases, phrase_images = _of_images(data, named[batch])
        chosen = named[batch].to(device)
        scores = model(
            images[chosen], all_boxes[chosen], data.phrases.tokens[phrases].to(device), phrase_images.to(device)
        )
        return similarity_loss(scores, belong[phrases.to(device)])

    fit(model, len(named), loss, recipe, seed)


@torch.inference_mode()
def grounding_accuracy(
    model: nn.Module, data: CaptionedImages, seed: int = 0, candidates: int = CANDIDATES, batch_size: int = 64
) -> float:
    """Return the share of phrases whose best candidate has an intersection over union of at least 0.5, in percent.

    Args:
        model: The network. It is put into evaluation mode.
        data: The test set.
        seed: The seed of the candidates.
        candidates: The least number of candidate boxes of an image.
        batch_size: The number of images of a forward pass.

    Returns:
        The accuracy in percent.

    Raises:
        DataError: if the set has no phrases.

    Example:
        >>> from pathlib import Path
        >>> from shapeshift.experiments.data.scenes import scenes
        >>> from shapeshift.experiments.tasks.grounding import grounding_accuracy
        >>> from shapeshift.networks.similarity_network import SimilarityNetwork
        >>> from shapeshift.networks.text_encoder import TextEncoder
        >>> from shapeshift.networks.trunk import WideTrunk
        >>> training, test = scenes(Path("data"), train=8, test=1)
        >>> text = TextEncoder(len(training.vocabulary), word_size=8, state_size=8)
        >>> model = SimilarityNetwork(WideTrunk(10, 0.25), text, text_features=8, hidden=16, embedding=8)
        >>> 0 <= grounding_accuracy(model, training) <= 100
        True
    """
    named = _with_phrases(data)
    model.eval()
    device = next(model.parameters()).device
    boxes = propose(data, candidates, seed)
    found = []
    for batch in named.split(batch_size):
        phrases, phrase_images = _of_images(data, batch)
        inputs = data.images[batch], boxes[batch], data.phrases.tokens[phrases], phrase_images
        best = model(*(part.to(device) for part in inputs)).argmax(1).cpu()
        chosen = boxes[data.phrases.images[phrases], best]
        found.append(overlap(chosen, data.phrases.boxes[phrases]) >= FOUND)
    return torch.cat(found).float().mean().item() * 100


def _with_phrases(data: CaptionedImages) -> Tensor:
    """Return the indices of the images that have phrases."""
    if not len(data.phrases.tokens):
        raise DataError(f"{len(data)} images without phrases: grounding needs phrases with boxes")
    named: Tensor = data.phrases.images.unique()
    return named


def _of_images(data: CaptionedImages, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices of the phrases of some images, and the place of each phrase's image in the batch."""
    places = torch.full((len(data),), -1)
    places[batch] = torch.arange(len(batch))
    phrases = (places[data.phrases.images] >= 0).nonzero().flatten()
    return phrases, places[data.phrases.images[phrases]]
