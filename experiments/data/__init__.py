"""Data sets: labelled images, captioned images, texts, questions and grids.

Two registries hold the data sets that a user chooses by name:

* :data:`DATASETS` has labelled images for classification: ``cifar10``, ``cifar100``, ``digits``, ``fashion_mnist``,
  ``glyphs`` and ``image_folder``.
* :data:`CAPTIONED` has images with sentences and phrases: ``emoji``, ``flickr30k`` and ``scenes``.

An entry is a function that loads a training set and a test set. To add one, write a file with a function decorated by
``@DATASETS.register("name")`` or ``@CAPTIONED.register("name")``, and import the file below. Its first argument is
``data_dir``, the folder of its files or None, and its own options follow with defaults.

The other modules are imported by their names: ``text`` (passages of code), ``questions``, ``perlfaq`` and ``squad``
(questions about passages), ``shortest_paths`` (grids), and ``plain_text`` (files for language models).

Example:
    >>> from shapeshift.experiments.data import DATASETS
    >>> training, test = DATASETS["digits"]()
    >>> training.images.shape
    torch.Size([1200, 1, 8, 8])
"""

from shapeshift.experiments.data import cifar, digits, emoji, fashion_mnist, flickr30k, glyphs, image_folder, scenes
from shapeshift.experiments.data.base import DATASETS, Images, Labelled, Loader
from shapeshift.experiments.data.captions import CAPTIONED, CaptionedImages, CaptionLoader

__all__ = [
    "CAPTIONED",
    "DATASETS",
    "CaptionLoader",
    "CaptionedImages",
    "Images",
    "Labelled",
    "Loader",
    "cifar",
    "digits",
    "emoji",
    "fashion_mnist",
    "flickr30k",
    "glyphs",
    "image_folder",
    "scenes",
]
