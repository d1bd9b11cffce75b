"""The built documentation in a browser: on a phone, in both themes, and with its search.

`make site` builds the pages, installs the browser's driver, and runs these tests. Without Chromium, the driver, or the
pages that `make docs` builds, they are skipped.
"""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

SITE = Path(__file__).parent.parent / "docs" / "_build" / "html"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE = 375  # pixels
LEAST_CONTRAST = 4.5  # level AA of the Web Content Accessibility Guidelines for text of normal size

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
    pytest.mark.skipif(not (SITE / "index.html").exists(), reason="needs the pages of `make docs`"),
]

# The right end of a page: the theme lets the article scroll on its own, so the document is no wider.
WIDTH = """() => {
  const article = document.querySelector('article');
  const end = article ? article.getBoundingClientRect().left + article.scrollWidth : 0;
  return Math.ceil(Math.max(document.documentElement.scrollWidth, end));
}"""

# The texts of a page whose contrast with the ground is too low, as lines "contrast text".
LOW_CONTRAST = """(least) => {
  const parse = (text) => {
    const values = text.match(/[\\d.]+(e-?\\d+)?/g).map(Number);
    const scale = text.startsWith('color(') ? 255 : 1;
    return [...values.slice(0, 3).map((value) => value * scale), values.length > 3 ? values[3] : 1];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const ground = (element) => {
    if (!element) return [255, 255, 255];
    const own = parse(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own : over(own, ground(element.parentElement));
  };
  const luminance = (color) => {
    const [r, g, b] = color.slice(0, 3).map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = new Map();
  for (const element of document.querySelectorAll('.page *, .sidebar-drawer *')) {
    const text = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data).join('').trim();
    const style = getComputedStyle(element);
    if (!text || style.visibility === 'hidden' || !element.getClientRects().length || element.closest('svg')) continue;
    if (element.closest('.headerlink, .mobile-header') || style.opacity === '0') continue;
    const below = ground(element);
    const shades = [luminance(over(parse(style.color), below)), luminance(below)].sort((a, b) => b - a);
    const contrast = (shades[0] + 0.05) / (shades[1] + 0.05);
    if (contrast < least) found.set(`${element.localName}.${element.className}`, `${contrast.toFixed(2)} ${text}`);
  }
  return [...found].map(([name, line]) => `${name}: ${line.slice(0, 60)}`);
}"""


@dataclass
class Visit:
    """What a browser of a phone's width found on a page."""

    errors: list[str] = field(default_factory=list)
    width: int = 0
    links: list[str] = field(default_factory=list)
    anchors: list[str] = field(default_factory=list)
    low_contrast: dict[str, list[str]] = field(default_factory=dict)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Serve the pages."""
    handler = functools.partial(Quiet, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Any]:
    """Open a page of a phone's width. Files of other hosts, such as MathJax, are empty."""
    driver = pytest.importorskip("playwright.sync_api")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": PHONE, "height": 800}, reduced_motion="reduce")
        context.route(lambda url: not url.startswith(address), lambda route: route.fulfill(status=200, body=""))
        yield context.new_page()
        browser.close()


@pytest.fixture(scope="module")
def visits(address: str, page: Any) -> dict[str, Visit]:
    """Visit each page once, and note what the tests ask for."""
    visits: dict[str, Visit] = {}
    current: list[str] = []
    page.on("console", lambda message: current.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: current.append(str(error)))
    page.on(
        "response", lambda response: current.append(f"{response.status} {response.url}") if not response.ok else None
    )
    for file in sorted(SITE.rglob("*.html")):
        name = file.relative_to(SITE).as_posix()
        if name.startswith("_"):
            continue
        page.goto(f"{address}/{name}")
        visit = visits[name] = Visit(
            width=page.evaluate(WIDTH),
            links=page.evaluate("[...document.querySelectorAll('a[href]')].map((link) => link.href)"),
            anchors=page.evaluate("[...document.querySelectorAll('[id]')].map((element) => element.id)"),
        )
        for theme in ("light", "dark"):
            page.evaluate("(theme) => document.body.dataset.theme = theme", theme)
            visit.low_contrast[theme] = page.evaluate(LOW_CONTRAST, LEAST_CONTRAST)
        visit.errors, current[:] = list(current), []
    return visits


def test_pages_log_no_errors(visits: dict[str, Visit]) -> None:
    assert len(visits) > 30
    assert {name: visit.errors for name, visit in visits.items() if visit.errors} == {}


def test_pages_fit_a_phone(visits: dict[str, Visit]) -> None:
    assert {name: visit.width for name, visit in visits.items() if visit.width > PHONE} == {}


def test_internal_links_lead_somewhere(visits: dict[str, Visit], address: str) -> None:
    broken = {}
    for name, visit in visits.items():
        for link in visit.links:
            if not link.startswith(address):
                continue
            path, _, anchor = link.removeprefix(f"{address}/").partition("#")
            target = visits.get(path or "index.html")
            if target is None and not (SITE / path).is_file():
                broken[f"{name} -> {link}"] = "no page"
            elif target and anchor and anchor not in target.anchors:
                broken[f"{name} -> {link}"] = "no anchor"
    assert broken == {}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_legible(theme: str, visits: dict[str, Visit]) -> None:
    assert {name: low for name, visit in visits.items() if (low := visit.low_contrast[theme])} == {}


def test_the_search_finds_pages(address: str, page: Any) -> None:
    page.goto(f"{address}/search.html?q=budget")
    page.wait_for_selector("#search-results li a")
    titles = page.evaluate("[...document.querySelectorAll('#search-results li a')].map((link) => link.textContent)")
    assert "Budgets in bytes" in titles
