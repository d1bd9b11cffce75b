"""The package as others get it: what a wheel holds, what an import loads, and which way imports go."""

from __future__ import annotations

import ast
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import shapeshift

ROOT = Path(__file__).parent.parent
# From the name that a module is imported by to the folder that it is in, lowest first.
LAYERS = {
    "shapeshift": "shapeshift",
    "shapeshift.integrations": "integrations",
    "shapeshift.experiments": "experiments",
    "benchmarks": "benchmarks",
}
OPTIONAL = [
    "timm",
    "lightning",
    "transformers",
    "rich",
    "matplotlib",
    "sklearn",
    "torchvision",
    "torch_pruning",
    "shapeshift.integrations",
    "shapeshift.experiments",
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a source distribution from a copy, since a build leaves files beside its source, and a wheel from that."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in ("shapeshift", "integrations", "experiments"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    _build("sdist", source, built)
    (archive,) = built.glob("*.tar.gz")
    shutil.unpack_archive(archive, built / "unpacked", filter="data")
    (unpacked,) = (built / "unpacked").iterdir()
    _build("wheel", unpacked, built)
    (path,) = built.glob("*.whl")
    return path


def _build(kind: str, source: Path, built: Path) -> None:
    """Build a distribution with what is installed."""
    build = f"import sys; from setuptools.build_meta import build_{kind}; build_{kind}(sys.argv[1])"
    finished = subprocess.run(
        [sys.executable, "-c", build, str(built)], cwd=source, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr


def test_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {
        f"{package.replace('.', '/')}/{file.relative_to(ROOT / folder).as_posix()}"
        for package, folder in LAYERS.items()
        if package != "benchmarks"
        for file in (ROOT / folder).rglob("*.py")
    }
    assert {"shapeshift/networks/__init__.py", "shapeshift/integrations/__init__.py"} <= expected
    assert held == expected | {"shapeshift/py.typed"}


def test_wheel_names_its_command_license_and_requirements(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    metadata = {name.rpartition(".dist-info/")[2]: name for name in archive.namelist() if ".dist-info/" in name}
    assert (
        "shapeshift = shapeshift.experiments.command_line.main:main"
        in archive.read(metadata["entry_points.txt"]).decode()
    )
    assert "Apache License" in archive.read(metadata["licenses/LICENSE"]).decode()
    required = re.findall(
        r"^Requires-Dist: ([\w-]+)[^;\n]*$", archive.read(metadata["METADATA"]).decode(), re.MULTILINE
    )
    assert sorted(required) == ["numpy", "safetensors", "torch"]


def test_wheel_runs_without_the_source_and_the_extras(wheel: Path, tmp_path: Path) -> None:
    program = f"""
import sys
for name in {[name for name in OPTIONAL if not name.startswith("shapeshift.")]}:
    sys.modules[name] = None  # importing it raises
sys.path.insert(0, {str(wheel)!r})
import torch, shapeshift
assert shapeshift.__file__.startswith({str(wheel)!r}), shapeshift.__file__
model = shapeshift.compress(torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.Linear(32, 32)), "50%")
model(torch.randn(2, 32)).sum().backward()
shapeshift.materialize(model)
print(shapeshift.count_parameters(model))
"""
    assert run(program, tmp_path) == "2112"


def test_wheel_is_installed_with_its_command(wheel: Path, tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(tmp_path)]
    subprocess.run([*install, str(wheel)], check=True)
    command = [sys.executable, str(tmp_path / "bin" / "shapeshift"), "--version"]
    finished = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert finished.stdout.strip() == f"shapeshift {shapeshift.__version__}", finished.stderr


def test_import_loads_no_optional_package_and_leaves_cuda_alone(tmp_path: Path) -> None:
    program = f"""
import json, sys
import shapeshift, torch
print(json.dumps([[name for name in {OPTIONAL} if name in sys.modules], torch.cuda.is_initialized()]))
"""
    assert json.loads(run(program, tmp_path)) == [[], False]


def run(program: str, folder: Path) -> str:
    """Run a program in a process of its own and return what it prints."""
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


def modules() -> Iterator[tuple[str, Path]]:
    """List all modules by the name that they are imported by."""
    for package, folder in LAYERS.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join((package, *(part for part in parts if part != "__init__"))), file


def imports(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """List what a module imports, and whether it does so when it is itself imported."""
    for statement in ast.iter_child_nodes(tree):
        if isinstance(statement, ast.Import):
            yield from ((alias.name, True) for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            assert not statement.level, f"line {statement.lineno}: relative import"
            yield from ((f"{statement.module}.{alias.name}", True) for alias in statement.names)
        else:
            postponed = isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) or (
                isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test)
            )
            yield from ((name, on_import and not postponed) for name, on_import in imports(statement))


def layer(module: str) -> int | None:
    """Return how high a module stands: 0 for the library, more for what is built upon it; None for others' modules."""
    packages = list(LAYERS)
    above = [index for index, package in enumerate(packages) if f"{module}.".startswith(f"{package}.")]
    return max(above, default=None)


@pytest.mark.parametrize(("module", "file"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_go_one_way(module: str, file: Path) -> None:
    own = layer(module)
    assert own is not None
    for name, _ in imports(ast.parse(file.read_text(encoding="utf-8"))):
        other = layer(name)
        assert other is None or other <= own, f"{module} imports {name}, which is built upon it"


@pytest.mark.parametrize(
    ("module", "file"), [(m, f) for m, f in modules() if layer(m) == 0], ids=lambda v: v if isinstance(v, str) else ""
)
def test_the_library_needs_only_what_it_requires(module: str, file: Path) -> None:
    found = imports(ast.parse(file.read_text(encoding="utf-8")))
    needed = {name.partition(".")[0] for name, on_import in found if on_import} - set(sys.stdlib_module_names)
    assert needed <= {"shapeshift", "torch", "numpy", "safetensors"}


def test_every_package_that_is_imported_is_named_by_an_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    imported_as = {"huggingface-hub": "huggingface_hub", "scikit-learn": "sklearn", "pillow": "PIL"}
    imported_as |= {"torch-pruning": "torch_pruning", "onnx-ir": "onnx_ir"}
    distributions = {re.split(r"[\[<>=]", requirement)[0] for requirement in requirements}
    named = {imported_as.get(name, name) for name in distributions}
    found = {name for _, file in modules() for name, _ in imports(ast.parse(file.read_text(encoding="utf-8")))}
    packages = {name.partition(".")[0] for name in found} - set(sys.stdlib_module_names) - {"benchmarks"}
    assert packages <= named


def test_pre_commit_runs_the_same_ruff() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (pinned,) = [requirement for requirement in extras["dev"] if requirement.startswith("ruff==")]
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"ruff==[\d.]+", hooks) == [pinned, pinned]


def test_each_target_of_make_has_one_rule() -> None:
    text = (ROOT / "Makefile").read_text()
    (listed,) = re.findall(r"^\.PHONY: (.*)$", text, re.M)
    rules = re.findall(r"^([a-z-]+):", text, re.M)
    assert sorted(rules) == sorted(listed.split())
