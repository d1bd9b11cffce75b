"""The mean ranks of feature maps over batches."""

from __future__ import annotations

import pytest
import torch

from shapeshift import prune
from tests.prunable import images, small_resnet
from tests.tolerances import assert_close


def test_ranks_stream_over_batches() -> None:
    model, x = small_resnet().eval(), images(16, 7)
    together = prune.feature_ranks(model, [x], progress=False)
    streamed = prune.feature_ranks(model, iter([x[:3], (x[3:4], None), (x[4:], torch.zeros(3))]), progress=False)
    assert list(together) == list(streamed)
    for layer, ranks in together.items():
        assert ranks.dtype == torch.float32
        assert_close(streamed[layer], ranks, "reordered")
        assert 0 < ranks.max() <= 16


def test_a_progress_bar_is_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    model = small_resnet()
    prune.feature_ranks(model, [images(), images()])
    assert "feature ranks: 100%" in capsys.readouterr().err
    prune.feature_ranks(model, [images()], progress=False)
    assert capsys.readouterr().err == ""
