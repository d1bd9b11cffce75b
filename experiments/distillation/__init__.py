"""Ways to train with a distiller: scripts with three kinds of loop, and a ``Trainer`` of transformers."""
