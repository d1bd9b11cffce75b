"""Options of any type become a config that can be written down."""

from __future__ import annotations

import numpy as np

import shapeshift


def test_numpy_numbers_are_seeds_too() -> None:
    assert shapeshift.Config(seed=np.int64(3)).to_dict() == shapeshift.Config(seed=3).to_dict()


def test_labels_of_any_type_make_a_config_that_can_be_written_down() -> None:
    for labels in (list(np.array([1, 2, 1])), [1, 2, 1], ["1", "2", "1"]):
        assert shapeshift.Config(mapping=labels).to_dict() == shapeshift.Config(mapping=("1", "2", "1")).to_dict()
