"""Baselines of sharing: thinner networks, low ranks, pruning by magnitude, and the papers' own generator."""
