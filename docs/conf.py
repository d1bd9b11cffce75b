"""How the documentation is built: `make docs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

from shapeshift.version import __version__

project = "shapeshift"
copyright = "the shapeshift authors"
release = __version__
extensions = [
    "myst_parser",
    "errors_directive",
    "registry_directive",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_design",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "shapeshift"
html_static_path = ["_static"]
html_css_files = ["site.css"]
pygments_dark_style = "github-dark"

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# Names of other projects, whose pages a build without network cannot look up, and the type variables of our own.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|nn|abc|collections|os|pathlib|typing|lightning|matplotlib|numpy|transformers)\..*"),
    (
        "py:.*",
        r"(Any|Budget|Callable|Figure|GeneratorOptions|Layers|Mapping|Matrix|Measure|Path|Sequence|Tensor|Tokenizer)",
    ),
    ("py:.*", r"shapeshift\.generators\.mixed\.MixedGenerator"),
    ("py:.*", r"(str \| None|.*\bT|.*T)"),
]


def setup(app: Sphinx) -> None:
    """Show Mermaid graphs, which GitHub draws, as plain text."""
    app.add_lexer("mermaid", TextLexer)
