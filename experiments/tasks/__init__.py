"""Tasks beside classification, each with its training and its measure.

* ``retrieval``: find the sentence of an image and the image of a sentence; measured by recall.
* ``grounding``: find the part of an image that a phrase names; measured by accuracy.
* ``masked_language``: pretrain an encoder of transformers by predicting masked tokens.
* ``question_answering``: find the answer to a question in a passage, with ``answer_scores`` to measure it.

Classification is in :mod:`shapeshift.experiments.training`, whose :class:`~shapeshift.experiments.training.Recipe` all
of them use.
"""
