"""The command ``shapeshift``: compress weights on disk, report on them, evaluate them, and make them plain again.

One file is one command. ``options`` makes options of the fields of :class:`shapeshift.Config`, ``sources`` opens models
on disk and writes them, ``batches`` reads texts and images, and ``printing`` shows results.
"""
