"""Tools to run any model, compressed or not."""
