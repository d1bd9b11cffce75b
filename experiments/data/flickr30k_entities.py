"""The files of Flickr30K Entities: phrases of sentences, and the boxes that they name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from shapeshift.errors import DataError
from shapeshift.experiments.data.captions import Box

_PHRASE = re.compile(r"\[/EN#(?P<entity>\d+)(?P<kinds>(?:/[^\s/\]]+)*) (?P<phrase>[^\]]*)\]")


def entity_phrases(folder: Path, image: str) -> Iterator[tuple[str, Box]]:
    """Yield the phrases of an image that have a box (Plummer et al. 2015, section 2).

    Args:
        folder: The folder of the data set. ``Sentences/IMAGE.txt`` marks phrases as ``[/EN#3/people a man]``, and
            ``Annotations/IMAGE.xml`` has the boxes of entity 3.
        image: The name of the image's file without its suffix.

    Yields:
        The text of a phrase, and the left, top, right and bottom edge in pixels of the box around its entity's boxes.

    Raises:
        DataError: if one of the two files is missing or damaged.
    """
    boxes = _boxes(folder / "Annotations" / f"{image}.xml")
    path = folder / "Sentences" / f"{image}.txt"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    for found in _PHRASE.finditer(text):
        if found["entity"] in boxes:
            yield found["phrase"], boxes[found["entity"]]


def _boxes(path: Path) -> dict[str, Box]:
    """Read the box around all boxes of each entity that has one."""
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    boxes: dict[str, Box] = {}
    for item in root.iter("object"):
        edges = item.find("bndbox")
        if edges is None:  # the whole scene, or an entity that the image does not show
            continue
        try:
            left, top, right, bottom = (float(edges.findtext(name, "")) for name in ("xmin", "ymin", "xmax", "ymax"))
        except ValueError:
            raise DataError(f"{path}: a bndbox needs the numbers xmin, ymin, xmax and ymax") from None
        # The file counts pixels from 1, and the last pixel belongs to the box.
        for name in item.findall("name"):
            entity = name.text or ""
            one = left - 1, top - 1, right, bottom
            other = boxes.get(entity, one)
            boxes[entity] = (
                min(one[0], other[0]),
                min(one[1], other[1]),
                max(one[2], other[2]),
                max(one[3], other[3]),
            )
    return boxes
