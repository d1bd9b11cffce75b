"""A passage with questions, its vocabulary, and a small encoder."""

from __future__ import annotations

from transformers import AlbertConfig, AlbertModel, PreTrainedTokenizerFast

from shapeshift.experiments.data.squad import Answer, Question

PASSAGE = "The generator makes weights. It mixes templates of a store, and a store is shared by some layers."


def ask(name: str, question: str, text: str, context: str = PASSAGE) -> Question:
    return Question(name, question, context, (Answer(text, context.index(text)),) if text else ())


QUESTIONS = [
    ask("q0", "What makes weights?", "generator"),
    ask("q1", "What does it mix?", "templates of a store"),
    ask("q2", "Who shares a store?", "layers."),
    ask("q3", "Who wrote this?", ""),
]


def encoder(tokenizer: PreTrainedTokenizerFast, layers: int = 2, length: int = 64) -> AlbertModel:
    """Build an ALBERT whose layers have weights of their own."""
    config = AlbertConfig(
        vocab_size=len(tokenizer),
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=layers,
        num_hidden_groups=layers,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=length,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.18,
    )
    return AlbertModel(config, add_pooling_layer=False)
