"""A recurrent encoder of texts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shapeshift.errors import ConfigError

CELLS = {"gru": nn.GRU, "lstm": nn.LSTM}


class TextEncoder(nn.Module):
    """Embed the words of a text, and read them with a recurrent network to its last state.

    Args:
        vocabulary: different words.
        word_size: length of a word's embedding.
        state_size: length of the recurrent network's state.
        cell: "gru" (Cho et al. 2014) or "lstm" (Hochreiter and Schmidhuber 1997).
        padding: the number that stands for no word.

    Raises:
        ConfigError: if the cell is unknown.
    """

    def __init__(self, vocabulary: int, word_size: int, state_size: int, cell: str = "gru", padding: int = 0) -> None:
        super().__init__()
        if cell not in CELLS:
            raise ConfigError(f"unknown cell {cell!r}; choose one of: {', '.join(CELLS)}")
        self.padding = padding
        self.words = nn.Embedding(vocabulary, word_size, padding_idx=padding)
        self.recurrent = CELLS[cell](word_size, state_size, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the state after each text's last word, of shape (N, state_size), given (N, length) with right padding.

        A text without a word has the state after its first padding.
        """
        states = self.recurrent(self.words(tokens))[0]
        last = (tokens != self.padding).sum(1).sub(1).clamp(min=0)
        read: Tensor = states[torch.arange(len(tokens), device=tokens.device), last]
        return read
