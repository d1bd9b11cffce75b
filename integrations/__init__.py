"""Adapters to other frameworks: timm, transformers and Lightning.

* ``timm``: build compressed models by name, and the networks for small images as models of timm.
* ``transformers``: save and load compressed models with ``save_pretrained`` and ``from_pretrained``, and train with a
  distiller in a ``Trainer``.
* ``lightning``: a callback that compresses a module in training.
* ``model_names``: find a model of timm or transformers by name.
"""
