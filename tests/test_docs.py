"""What the documents say is true: their code runs, and they leave no public name out."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import shapeshift
import shapeshift.errors
from shapeshift.distill import DISTILLERS
from shapeshift.errors import BudgetError
from shapeshift.generators import GENERATORS
from shapeshift.mappings import MAPPINGS
from shapeshift.names import Registry
from shapeshift.upsamplers import UPSAMPLERS

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted(path for pattern in ("*.md", "results/*.md", "tutorials/*.md") for path in (ROOT / "docs").glob(pattern)),
]
REGISTRIES: dict[str, Registry] = {
    "MAPPINGS": MAPPINGS,
    "GENERATORS": GENERATORS,
    "UPSAMPLERS": UPSAMPLERS,
    "DISTILLERS": DISTILLERS,
}


def blocks(document: Path, language: str) -> list[tuple[int, str]]:
    """Return the fenced code blocks of a language, each with its first line's number."""
    text = document.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [(text.count("\n", 0, match.start(1)), match[1]) for match in found]


def commands_in(block: str, program: str) -> list[list[str]]:
    """Return the words of every line "$ program ..." in a console block; a comment ends a line."""
    split = [shlex.split(line[2:], comments=True) for line in block.splitlines() if line.startswith("$ ")]
    return [words for words in split if words[0] == program]


def commands(program: str) -> list[list[str]]:
    """Return the words of every line "$ program ..." in the documents' console blocks."""
    return [
        words for path in DOCUMENTS for _, block in blocks(path, "console") for words in commands_in(block, program)
    ]


def in_order(document: Path) -> list[tuple[int, str, bool]]:
    """Return the blocks that run, in the order of a document: with their lines, and whether they are Python."""
    python = [(line, block, True) for line, block in blocks(document, "python")]
    console = [(line, block, False) for line, block in blocks(document, "console") if commands_in(block, "shapeshift")]
    return sorted(python + console)


@pytest.fixture
def restored_registries() -> Iterator[None]:
    """Take out again what a document's example registers."""
    before = [dict(registry._entries) for registry in REGISTRIES.values()]
    yield
    for registry, entries in zip(REGISTRIES.values(), before, strict=True):
        registry._entries = entries


@pytest.mark.usefixtures("restored_registries")
@pytest.mark.parametrize("document", [path for path in DOCUMENTS if in_order(path)], ids=lambda path: path.name)
def test_code_and_commands_in_documents_run(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # The blocks of a document follow one another, as a reader would type them.
    namespace: dict[str, object] = {"__name__": "document"}
    for line, block, is_python in in_order(document):
        if is_python:
            # Empty lines in front let a traceback show the line of the document.
            exec(compile("\n" * line + block, str(document), "exec"), namespace)
            continue
        for words in commands_in(block, "shapeshift"):
            capsys.readouterr()
            assert not run_command(words[1:]), capsys.readouterr().err
            assert len(capsys.readouterr().out.splitlines()) > 3
    if model := namespace.get("model"):
        plain = not shapeshift.is_compressed(model)  # type: ignore[arg-type]
        assert plain == ("materialize(model)" in blocks(document, "python")[-1][1])


@pytest.mark.parametrize("document", sorted((ROOT / "docs" / "tutorials").glob("*.md")), ids=lambda path: path.stem)
def test_tutorials_open_as_notebooks(document: Path) -> None:
    jupytext = pytest.importorskip("jupytext")
    cells = [cell.source for cell in jupytext.read(document).cells if cell.cell_type == "code"]
    assert cells == [block.rstrip() for _, block in blocks(document, "python")]
    assert f"$ jupytext --to notebook {document.relative_to(ROOT)}" in document.read_text(encoding="utf-8")


def run_command(arguments: list[str]) -> int | str | None:
    """Run the command line, and return its exit status."""
    from shapeshift.experiments.command_line.main import main

    try:
        return main(arguments)
    except SystemExit as exit_:  # --help leaves this way
        return exit_.code


def test_the_readme_shows_an_example_of_each_ecosystem() -> None:
    shown = [block for _, block in blocks(ROOT / "README.md", "python")]
    assert [len(block.splitlines()) <= 15 for block in shown] == [True, True]
    assert "import timm" in shown[0]
    assert "from transformers" in shown[1]


def test_make_targets_in_documents_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {words[1] for words in commands("make")}
    assert {"demo", "test", "check"} <= targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_every_public_name_is_documented() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\.\. auto(?:function|class|exception):: (\w+)$", page, re.MULTILINE))
    exported = {name: getattr(shapeshift, name) for name in shapeshift.__all__ if not name.startswith("_")}
    public = {name for name, entry in exported.items() if not inspect.ismodule(entry)}
    for package in set(exported) - public:
        named = set(re.findall(rf"^\.\. auto\w+:: shapeshift\.{package}\.([A-Z]\w*|[a-z_]+)$", page, re.MULTILINE))
        assert {name for name in exported[package].__all__ if not name.isupper() or name == "KD"} <= named
    assert documented == public
    assert all(inspect.getdoc(getattr(shapeshift, name)) for name in public)


def stable_names() -> list[str]:
    """Return the dotted names that the API page lists as stable: those above "For contributors"."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8").split("## For contributors")[0]
    listed = re.findall(r"^\.\. auto(?:function|class):: (\S+)$", page, re.MULTILINE)
    return [name if name.startswith("shapeshift.") else f"shapeshift.{name}" for name in listed]


def resolve(name: str) -> Any:
    """Return the object of a dotted name."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("name", stable_names())
def test_every_stable_name_has_a_whole_docstring(name: str) -> None:
    entry = resolve(name)
    text = inspect.getdoc(entry) or ""
    assert ">>> " in text, "no example"
    parameters = [
        parameter
        for parameter in inspect.signature(entry).parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    sections = "Attributes" if dataclasses.is_dataclass(entry) and "Attributes:" in text else "Args"
    assert not parameters or f"{sections}:" in text
    for parameter in parameters:
        assert re.search(rf"^ +\*{{0,2}}{parameter.name}: \S", text, re.MULTILINE), parameter.name


def modules_with_examples() -> list[str]:
    """Return the modules of the library and of what is installed with it whose docstrings hold examples."""
    found = pkgutil.walk_packages(shapeshift.__path__, "shapeshift.")
    names = ["shapeshift", *(module.name for module in found if not module.name.endswith("__main__"))]
    specs = ((name, importlib.util.find_spec(name)) for name in names)
    return [name for name, spec in specs if spec and spec.origin and ">>> " in Path(spec.origin).read_text("utf-8")]


@pytest.mark.usefixtures("restored_registries")
@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted
    assert not results.failed


# Rooms of the library that folders above it build on; everything else they use is on the API page.
SHARED_ROOMS = ("shapeshift.surgery.", "shapeshift.checkpoint.", "shapeshift.running.")


@pytest.mark.parametrize("folder", ["integrations", "experiments", "benchmarks"])
def test_folders_above_the_library_use_documented_names(folder: str) -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    documented = {name.rpartition(".")[2] for name in re.findall(r"^\.\. auto\w+:: (\S+)$", page, re.MULTILINE)}
    packages = {"errors", *shapeshift.__all__}
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("shapeshift"):
                continue
            above = ("shapeshift.integrations", "shapeshift.experiments", *SHARED_ROOMS)
            if not f"{node.module}.".startswith(above):
                used = {alias.name for alias in node.names}
                assert used <= documented | packages, f"{file.relative_to(ROOT)} imports from {node.module}"


@pytest.mark.parametrize("name", REGISTRIES)
def test_every_registry_is_listed_in_the_documentation(name: str) -> None:
    registry = REGISTRIES[name]
    listed = [argument.rpartition(".")[2] for argument in _registry_directives()]
    assert listed.count(name) == 1
    assert all((entry := registry[key]).__doc__ and len(entry.__doc__) > 20 for key in registry)


def test_every_error_has_its_section_and_its_note_names_the_page() -> None:
    errors = [value for value in vars(shapeshift.errors).values() if inspect.isclass(value)]
    listed = re.findall(
        r"^```\{errors\} (\S+)$", (ROOT / "docs" / "errors.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {error.__name__ for error in errors} == {"ShapeshiftError", *listed}
    with pytest.raises(BudgetError) as caught:
        shapeshift.compress(torch.nn.Linear(4, 4), "half of it")
    assert caught.value.__notes__ == ["The page docs/errors.md lists every BudgetError, with its cause and what to do."]
    assert "docs/errors.md" not in str(caught.value)


def _registry_directives() -> list[str]:
    pages = "".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    return re.findall(r"^```\{registry\} (\S+)$", pages, re.MULTILINE)
