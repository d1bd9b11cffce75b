"""Finding the part of an image that a phrase is about: training and accuracy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shapeshift.errors import DataError
from shapeshift.experiments.data.boxes import overlap, propose
from shapeshift.experiments.data.captions import CaptionedImages
from shapeshift.experiments.training import Recipe, fit
from shapeshift.networks.similarity_network import similarity_loss

CANDIDATES = 16  # boxes per image, at least

FOUND = 0.5  # intersection over union from which a box is the right one

# A candidate belongs to a phrase from the upper overlap with its box, and not below the lower one.
_BELONGS = 0.3, 0.6


def train_grounding(
    model: nn.Module, data: CaptionedImages, recipe: Recipe, seed: int, candidates: int = CANDIDATES
) -> None:
    """Train a network in place to tell the candidate boxes of a phrase from others, on its parameters' device.

    Args:
        model: maps images, boxes, tokens and the images of the tokens to scores, as a
            :class:`~shapeshift.networks.similarity_network.SimilarityNetwork` does.
        data: the training set, on any device.
        recipe: how.
        seed: of the candidates and of the order of the images.
        candidates: boxes per image, at least.

    Raises:
        DataError: if the set has no phrases.
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
    """Return the share of phrases whose best-scored candidate overlaps their box by half or more, in percent.

    Args:
        model: the network.
        data: the test set.
        seed: of the candidates.
        candidates: boxes per image, at least.
        batch_size: images at once.

    Raises:
        DataError: if the set has no phrases.
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
    """Return the indices of the phrases of some images, and for each the place of its image among them."""
    places = torch.full((len(data),), -1)
    places[batch] = torch.arange(len(batch))
    phrases = (places[data.phrases.images] >= 0).nonzero().flatten()
    return phrases, places[data.phrases.images[phrases]]
