"""Data sets of images, by name.

A data set is a function that loads a training set and a test set. To add one, write a file with a function decorated
by ``@DATASETS.register("name")`` and import it below.
"""

from shapeshift.integrations.data import cifar, digits, glyphs, image_folder
from shapeshift.integrations.data.base import DATASETS, Images, Loader

__all__ = ["DATASETS", "Images", "Loader", "cifar", "digits", "glyphs", "image_folder"]
