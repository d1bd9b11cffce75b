"""A Sphinx directive that lists every message of an error class, read from the code that raises it.

    ```{errors} ModelError
    ```

writes the class's docstring and a table of its messages. What a message fills in stands in braces.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

import shapeshift.errors

ROOT = Path(__file__).parent.parent
FOLDERS = ("shapeshift", "integrations", "experiments")


class ErrorsDirective(SphinxDirective):
    """List the messages of the error class whose name is the argument."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        (name,) = self.arguments
        found = messages().get(name, [])
        if not found:
            raise self.error(f"nothing raises {name}")
        lines = [inspect.getdoc(getattr(shapeshift.errors, name)) or "", "", "| message | raised in |", "|---|---|"]
        lines += [f"| {_cell(message)} | `{place}` |" for message, place in found]
        return self.parse_text_to_nodes("\n".join(lines))


def messages() -> dict[str, list[tuple[str, str]]]:
    """Return each error class's messages, and the files that raise them."""
    found: dict[str, dict[tuple[str, str], None]] = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.is_symlink() or any(part.is_symlink() for part in path.parents):
                continue
            for name, message in _raised(ast.parse(path.read_text())):
                found.setdefault(name, {})[message, str(path.relative_to(ROOT))] = None
    return {name: list(entries) for name, entries in found.items()}


def _raised(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the class and the message of each error and each warning that a module makes."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        match node.func:
            case ast.Name(id=name) if issubclass(getattr(shapeshift.errors, name, int), Exception):
                yield name, template(node.args[0])
            case ast.Attribute(attr="warn") if len(node.args) > 1 and isinstance(node.args[1], ast.Name):
                yield node.args[1].id, template(node.args[0])


def template(message: ast.expr) -> str:
    """Return the text of a message, with the names of what it fills in in braces."""
    match message:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(template(value) for value in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return template(left) + template(right)
        case ast.FormattedValue(value=value):
            return template(value)
    return f"{{{_name(message)}}}"


def _name(value: ast.expr) -> str:
    """Name what an expression is about: the first name in it that is not of a function, such as `len` and `join`."""
    called = {id(node.func) for node in ast.walk(value) if isinstance(node, ast.Call)}
    for node in ast.walk(value):
        match node:
            case ast.Name(id=name) if id(node) not in called:
                return name.strip("_")
            case ast.Attribute(attr=name) if id(node) not in called and not name.startswith("__"):
                return name.strip("_")
    return "..."


def _cell(text: str) -> str:
    """Escape a message for a cell of a table."""
    for mark in "\\|*_`<>[]{}$":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the directive."""
    app.add_directive("errors", ErrorsDirective)
    return {"version": "1", "parallel_read_safe": True}
