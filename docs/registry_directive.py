"""A Sphinx directive that lists the entries of a registry, so that a new entry needs no edit of the documentation.

    ```{registry} shapeshift.mappings.MAPPINGS
    :field: mapping
    ```

writes one entry per name: its docstring up to the arguments, and whether it is the default of that field of Config.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import itertools
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

from shapeshift.config import Config
from shapeshift.names import Registry

_SECTIONS = ("Args:", "Attributes:", "Returns:", "Raises:", "Example:")


class RegistryDirective(SphinxDirective):
    """List the entries of the registry whose dotted path is the argument."""

    required_arguments = 1
    option_spec: ClassVar = {"field": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        module, _, attribute = self.arguments[0].rpartition(".")
        registry = getattr(importlib.import_module(module), attribute)
        if not isinstance(registry, Registry):
            raise self.error(f"{self.arguments[0]} is not a Registry")
        defaults = {field.name: field.default for field in dataclasses.fields(Config)}
        default = defaults[self.options["field"]] if "field" in self.options else None
        described = [line for name in registry for line in describe(name, registry[name], name == default)]
        # Docstrings are reStructuredText, and the pages around them Markdown.
        return self.parse_text_to_nodes("\n".join(["```{eval-rst}", *described, "```"]))


def describe(name: str, entry: Any, is_default: bool) -> list[str]:
    """Write one entry as reStructuredText lines.

    Raises:
        ValueError: if it has no docstring of its own.
    """
    if not entry.__doc__:
        raise ValueError(f"{entry} is registered as {name!r} and has no docstring: the documentation shows it")
    lines = (inspect.getdoc(entry) or "").splitlines()
    shown = itertools.takewhile(lambda line: line.strip() not in _SECTIONS, lines)
    title = f"``{name}``" + (" (the default)" if is_default else "")
    return [title, *(f"   {line}" if line else "" for line in shown), ""]


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the directive."""
    app.add_directive("registry", RegistryDirective)
    return {"version": "1", "parallel_read_safe": True}
