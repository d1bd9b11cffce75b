"""Data sets of images, by name.

A data set is a function that loads a training set and a test set. To add one, write a file with a function decorated
by ``@DATASETS.register("name")``, or ``@CAPTIONED.register("name")`` for images with texts, and import it below.
"""

from shapeshift.experiments.data import cifar, digits, flickr30k, glyphs, image_folder, scenes
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
    "flickr30k",
    "glyphs",
    "image_folder",
    "scenes",
]
