"""What sharing is compared with: thinner networks, low ranks, pruning by magnitude, the papers' own way to generate."""
