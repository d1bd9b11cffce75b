"""Experiments: classifiers, families, question answering, matching, shortest paths."""
