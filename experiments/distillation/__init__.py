"""Scripts that distil a teacher into a student, with three kinds of training loop.

* ``plain``: a plain loop, for a wide residual network.
* ``timm``: the training recipe of timm, for models of timm.
* ``text``: a ``Trainer`` of transformers, for BERT.

Each is a module to run, such as ``python -m shapeshift.experiments.distillation.plain``. ``script`` is their common
part.
"""
