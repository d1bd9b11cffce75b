"""Boxes: their overlap, and candidates near those of phrases."""

from __future__ import annotations

import numpy as np
import torch

from shapeshift.experiments.data.boxes import overlap, propose
from tests.captioned import coloured, without_phrases
from tests.tolerances import assert_close


def test_overlap_is_what_counting_pixels_gives() -> None:
    rng = np.random.default_rng(0)
    edges = np.sort(rng.integers(0, 9, (2, 40, 2, 2)), axis=3)
    edges[..., 1] += edges[..., 0] == edges[..., 1]
    boxes, others = (torch.tensor(part.transpose(0, 2, 1).reshape(40, 4)).float() for part in edges)
    found = overlap(boxes, others)
    pixels = []
    for left, top, right, bottom in torch.cat([boxes, others]).long().tolist():
        mask = np.zeros((12, 12), bool)
        mask[top:bottom, left:right] = True
        pixels.append(mask)
    expected = [(one & other).sum() / (one | other).sum() for one, other in zip(pixels[:40], pixels[40:], strict=True)]
    assert 0 < sum(expected) < 40
    assert_close(found, torch.tensor(expected, dtype=torch.float32), "reordered")
    assert overlap(boxes[:, None], others).shape == (40, 40)


def test_candidates_are_the_boxes_of_the_phrases_others_near_them_and_random_ones() -> None:
    data = coloured(count=12)
    proposed = propose(data, candidates=14, seed=0)
    assert proposed.shape == (12, 14, 4)
    assert (proposed >= -1e-5).all()
    assert (proposed <= 16 + 1e-5).all()
    assert (proposed[..., :2] < proposed[..., 2:]).all()
    places = set()
    close = 0
    for image in range(12):
        true = data.phrases.boxes[data.phrases.images == image]
        shares = overlap(true[:, None], proposed[image])
        assert shares.max(dim=1).values.tolist() == [1.0, 1.0]
        places.add(int(shares[0].argmax()))
        best = shares.max(dim=0).values
        close += int(((best > 0.3) & (best < 1)).sum())
    assert len(places) > 4  # not always the same one
    assert 12 < close < 12 * 12
    assert torch.equal(proposed, propose(data, candidates=14, seed=0))
    assert not torch.equal(proposed, propose(data, candidates=14, seed=1))


def test_there_are_as_many_candidates_as_boxes_and_random_ones_where_there_are_none() -> None:
    data = coloured(count=3)
    assert_close(propose(data, 1, seed=0).sort(dim=1).values, data.phrases.boxes[::3].expand(3, 2, 4), "identical")
    proposed = propose(without_phrases(data), 5, seed=0)
    assert proposed.shape == (3, 5, 4)
    assert (proposed[..., :2] < proposed[..., 2:]).all()
