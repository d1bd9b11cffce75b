"""Train a WordPiece vocabulary."""

from __future__ import annotations

import re
from collections.abc import Iterable

from shapeshift.errors import ConfigError, MissingExtraError

try:
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import Split
    from tokenizers.processors import BertProcessing
    from tokenizers.trainers import WordPieceTrainer
    from transformers import PreTrainedTokenizerFast
except ImportError as error:
    raise MissingExtraError("a vocabulary of WordPiece", "transformers") from error

_PADDING, _UNKNOWN, _START, _SEPARATOR, _MASK = _SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_wordpiece(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Train a vocabulary of word pieces in lower case, as BERT's is (Devlin et al. 2019, section 3).

    A word is a run of letters, digits and underscores, so that names in code are one word. Any other character except
    spaces is a word of its own. As in BERT, a pair of texts becomes ``[CLS] first [SEP] second [SEP]``.

    Args:
        texts: The texts to train on.
        size: The largest number of different tokens. Five of them are special tokens.

    Returns:
        A tokenizer of transformers.

    Raises:
        ConfigError: if the size has no room for a word.

    Example:
        >>> from shapeshift.experiments.data.wordpiece import train_wordpiece
        >>> tokenizer = train_wordpiece(["Ada wrote it.", "Ada wrote a program."], size=60)
        >>> tokenizer.decode(tokenizer("Ada wrote it", "a program")["input_ids"])
        '[CLS] ada wrote it [SEP] a program [SEP]'
    """
    if size <= len(_SPECIAL):
        raise ConfigError(f"a vocabulary of size={size}: give more than the {len(_SPECIAL)} special tokens")
    texts = list(texts)
    trained = _tokenizer(WordPiece(unk_token=_UNKNOWN))
    # The trainer gives single letters inside words ids in an order that changes from run to run, and breaks ties by id.
    # Reserving them as special tokens fixes the order. The final vocabulary has them as ordinary pieces.
    letters = sorted({letter for text in texts for letter in trained.normalizer.normalize_str(text)})
    within = [f"##{letter}" for letter in letters if re.fullmatch(r"\w", letter)]
    reserved = [*_SPECIAL, *within[: max(0, size - len(_SPECIAL))]]
    trained.train_from_iterator(texts, WordPieceTrainer(vocab_size=size, special_tokens=reserved, show_progress=False))
    pieces = trained.get_vocab()
    tokenizer = _tokenizer(WordPiece(pieces, unk_token=_UNKNOWN))
    tokenizer.post_processor = BertProcessing((_SEPARATOR, pieces[_SEPARATOR]), (_START, pieces[_START]))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_PADDING,
        unk_token=_UNKNOWN,
        cls_token=_START,
        sep_token=_SEPARATOR,
        mask_token=_MASK,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _tokenizer(model: WordPiece) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = Split(Regex(r"\w+|[^\w\s]"), "removed", invert=True)
    return tokenizer
