"""The recurrent encoder of texts."""

from __future__ import annotations

import pytest
import torch

from shapeshift.errors import ConfigError
from shapeshift.networks.text_encoder import CELLS, TextEncoder
from tests.tolerances import assert_close


@pytest.mark.parametrize("cell", CELLS)
def test_padding_does_not_change_what_is_read(cell: str) -> None:
    encoder = TextEncoder(9, 4, 6, cell)
    texts = [[3, 5, 2], [7], [4, 4]]
    tokens = torch.tensor([text + [0] * (5 - len(text)) for text in texts])
    read = encoder(tokens)
    assert read.shape == (3, 6)
    for text, state in zip(texts, read, strict=True):
        assert_close(state, encoder(torch.tensor([text]))[0], "reordered")
        assert_close(state, encoder.recurrent(encoder.words(torch.tensor([text])))[0][0, -1], "reordered")


def test_an_unknown_cell_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown cell 'rnn'; choose one of: gru, lstm"):
        TextEncoder(9, 4, 6, "rnn")
