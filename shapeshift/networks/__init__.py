"""The small networks of the papers, in plain PyTorch."""
