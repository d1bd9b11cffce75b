"""Reports as HTML, for notebooks and as pages of their own."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser

import pytest

import shapeshift
from shapeshift.mapping_layout import bars
from tests.methods import compressed, every_method
from tests.models import Residual, mlp


class Balanced(HTMLParser):
    """Notes the elements that are open, and those that have been opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("br", "meta"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@every_method
def test_a_notebook_shows_each_weight_and_each_template(options: dict[str, str]) -> None:
    report = shapeshift.report(compressed(Residual(), 0.8, **options))
    text = report._repr_html_()
    parsed = Balanced(text)
    assert parsed.open == []
    assert parsed.seen.count("rect") == len(bars(report))
    assert f"{report.parameters:,} after" in text
    for group in report.groups:
        assert f"<strong>{group.name}</strong>: {group.parameters:,} parameters" in text
        for weight in group.weights:
            assert f"<td>{weight.name}</td><td>{' x '.join(map(str, weight.shape))}</td>" in text


def test_a_page_is_whole_and_loads_nothing() -> None:
    page = shapeshift.report(shapeshift.plan_compression(mlp(), 0.5)).to_html("A <b>title</b> & more")
    parsed = Balanced(page)
    assert page.startswith("<!DOCTYPE html>")
    assert parsed.open == []
    assert parsed.loaded == []
    assert "script" not in parsed.seen
    assert "b" not in parsed.seen
    (title,) = re.findall("<title>(.*?)</title></?head|<title>(.*?)</title><meta", page)
    assert unescape("".join(title)) == "A <b>title</b> & more"


def test_errors_of_a_fit_stand_beside_their_weights() -> None:
    fitted = shapeshift.report(shapeshift.compress(mlp(), 0.6, init="fit"))
    rows = re.findall(r"<tr><td>(.*?)</td>.*?<td>([\d.]+%)</td></tr>", fitted._repr_html_())
    assert rows == [(weight.name, f"{weight.error:.1%}") for group in fitted.groups for weight in group.weights]
    assert "error of the fit" not in shapeshift.report(shapeshift.compress(mlp(), 0.6))._repr_html_()


@pytest.mark.parametrize("budget", ["50%", "40kB"])
def test_the_bar_is_as_long_as_the_share_of_the_budget_in_use(budget: str) -> None:
    report = shapeshift.report(shapeshift.plan_compression(mlp(width=128), budget))
    (width,) = re.findall(r'<div style="width: ([\d.]+)%">', report._repr_html_())
    used, allowed = report.parameters, report.budget
    if report.budget_bytes is not None:
        used, allowed = report.checkpoint_bytes, report.budget_bytes
    assert float(width) == pytest.approx(100 * used / allowed, abs=0.01)
