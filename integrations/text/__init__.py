"""Text encoders: their tokenizer, pretraining on masked words, and answering questions."""
