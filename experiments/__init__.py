"""The programs that a person runs, and the parts that they train with.

* ``cli`` is the command ``shapeshift``, with ``shapeshift inspect`` and ``shapeshift demo``.
* ``demo`` compares a dense, a thinner and a compressed network on handwritten digits.
* ``distillation`` has scripts that train a student with a teacher.
* ``data`` has the data sets, and ``tasks`` the tasks beside classification.
* ``training`` is the training loop of all of them, and ``augmentation`` changes its images.
* ``federated`` has the clients and the server of federated learning with Flower.
"""
