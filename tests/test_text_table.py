"""Tables as plain text: columns are aligned by what they hold."""

from __future__ import annotations

from shapeshift.text_table import text_table


def test_columns_of_numbers_are_aligned_to_the_right_and_others_to_the_left() -> None:
    rows = [
        ("all", "1,234", "5.2%", "0.1 ± 0.02", "2-4", "1e-05", "3 down"),
        ("x", "9", "", "10.1 ± 0.20", "3", "nan", "12 up"),
    ]
    assert text_table(["group", "n", "share", "error", "templates", "rate", "sampling"], rows).splitlines() == [
        "group      n  share        error  templates   rate  sampling",
        "all    1,234   5.2%   0.1 ± 0.02        2-4  1e-05  3 down",
        "x          9         10.1 ± 0.20          3    nan  12 up",
    ]


def test_a_table_without_rows_is_its_header() -> None:
    assert text_table(["layer", "kept"], []) == "layer  kept"
