"""A recurrent encoder of texts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shapeshift.errors import ConfigError

CELLS = {"gru": nn.GRU, "lstm": nn.LSTM}


class TextEncoder(nn.Module):
    """An encoder that embeds the words of a text and reads them with a recurrent network, up to its last state.

    Args:
        vocabulary: The number of different words.
        word_size: The length of a word's embedding.
        state_size: The length of the recurrent network's state.
        cell: "gru" (Cho et al. 2014) or "lstm" (Hochreiter and Schmidhuber 1997).
        padding: The token that fills up short texts.

    Raises:
        ConfigError: If the cell is unknown.

    Example:
        >>> import torch
        >>> from shapeshift.networks.text_encoder import TextEncoder
        >>> encoder = TextEncoder(vocabulary=100, word_size=16, state_size=24)
        >>> encoder(torch.tensor([[5, 7, 2], [9, 0, 0]])).shape
        torch.Size([2, 24])
    """

    def __init__(self, vocabulary: int, word_size: int, state_size: int, cell: str = "gru", padding: int = 0) -> None:
        super().__init__()
        if cell not in CELLS:
            raise ConfigError(f"unknown cell {cell!r}; choose one of: {', '.join(CELLS)}")
        self.padding = padding
        self.words = nn.Embedding(vocabulary, word_size, padding_idx=padding)
        self.recurrent = CELLS[cell](word_size, state_size, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the state after each text's last word.

        Args:
            tokens: The tokens of the texts, padded on the right, of shape (N, length).

        Returns:
            The states, of shape (N, state_size). A text without a word has the state after its first padding token.
        """
        states = self.recurrent(self.words(tokens))[0]
        last = (tokens != self.padding).sum(1).sub(1).clamp(min=0)
        read: Tensor = states[torch.arange(len(tokens), device=tokens.device), last]
        return read
