"""Tables, pictures and the page of results, all made from the runs and the other JSON files on disk."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.claims import Claim, Verdict, judge
from benchmarks.markdown import markdown_table
from benchmarks.results import RESULTS
from benchmarks.row import Row
from benchmarks.runs import RunStore
from benchmarks.table import Table
from benchmarks.table_runs import TableRuns, find_table_runs
from benchmarks.tables import TABLES
from shapeshift.experiments.error_plot import plot_errors, spread

PAGE = Path(__file__).parent.parent / "docs" / "results.md"

INTRODUCTION = """\
# Results

Every number on this page is read from JSON files in `benchmarks/results` that the named command wrote, and
`python -m benchmarks report` makes the page from the files. `python -m benchmarks list` names the tables; each
resumes where it was stopped. Repeat a command to measure your own machine.

Test errors are means and standard deviations over seeds. All rows of a table are trained by one recipe unless a row
says otherwise, without augmentation and without a validation set. Where a paper has the table, its networks and data
sets are larger ones: the order of rows can be compared, values cannot. The expected order of two rows is called
*reproduced* or *not reproduced* if their means lie further apart than the larger one of their standard deviations, and
otherwise *within one standard deviation*, which is where rows are that are expected to be on par.
"""

# The results of other scripts, and the introduction of each on the page.
MEASUREMENTS = {
    "step_time": """\
## Time and memory of a training step

Generating costs most where there is little else to do: the batches of the ViT and of the ResNet are small. The papers'
generator mixes as many templates of a store of the same size, but slices the store in each layer.
""",
    "step_sizes": """\
## Size of an optimizer's step

An optimizer's rule for rows or channels reads a store, whose pieces are columns, as rows of one entry. A ratio of 1
means that weights move as far as those of the dense model; [](choosing.md) says which optimizer wants what.
""",
    "cost_of_distillation": """\
## Time of a training step with distillation
""",
    "feature_ranks": """\
## Time of measuring ranks
""",
    "glyph_difficulty": """\
## How hard the glyphs are
""",
}


def write_report(found: TableRuns, folder: Path = RESULTS) -> str:
    """Write a table, and its picture if it has one.

    Args:
        found: The runs of the table.
        folder: The folder that both are written into.

    Returns:
        The table with the verdicts, as Markdown.
    """
    text, picture = render(found), folder / f"{found.name}.png"
    (folder / f"{found.name}.md").write_text(text, encoding="utf-8")
    if found.table.line:
        plot(found, picture)
    elif found.table.experiment.picture:
        values = {row.method: [run.values for run in found.runs[row.key]] for row in found.table.rows}
        found.table.experiment.draw({method: runs for method, runs in values.items() if runs}, found.sizes, picture)
    return text


def reported(table: Table, store: RunStore) -> list[TableRuns]:
    """Return a table's runs on each data set and device that it was run on.

    Its Markdown file tells where it was run: on other data sets, it may share some runs with tables that were.
    """
    return [found for found in find_table_runs(table, store) if (RESULTS / f"{found.name}.md").exists()]


def write_page(store: RunStore) -> None:
    """Make all tables, all pictures and the page of results anew."""
    for table in TABLES.values():
        for found in reported(table, store):
            write_report(found)
    PAGE.write_text(page(store), encoding="utf-8")


def page(store: RunStore) -> str:
    """Return the page of results."""
    parts = [INTRODUCTION]
    for table in TABLES.values():
        shown = "Test error against parameters" if table.line else table.experiment.picture
        for place, found in enumerate(reported(table, store)):
            if place == 0:
                parts.append(f"## {table.title}\n\n*{table.source}.* {table.expectation}\n")
            parts.append(render(found))
            if shown:
                parts.append(f"![{shown}](../benchmarks/results/{found.name}.png)\n")
    for name, introduction in MEASUREMENTS.items():
        measured = sorted(RESULTS.glob(f"{name}*.md"))
        if measured:
            parts += [introduction, *(path.read_text(encoding="utf-8") for path in measured)]
    return "\n".join(parts)


def render(found: TableRuns) -> str:
    """Return a table, and under it the verdicts on its claims, as Markdown."""
    rows = found.table.rows
    parts = [_caption(found), _table(found)]
    missing = sum(not found.has(row.key) for row in rows)
    if missing:
        parts.append(f"Not run yet: {missing} of {len(rows)} rows.")
    verdicts = [text for claim in found.table.claims if (text := _verdicts(claim, found))]
    parts += ["Expected, and found:", "\n".join(verdicts)] if verdicts else []
    return "\n\n".join(parts) + "\n"


def plot(found: TableRuns, path: Path) -> None:
    """Draw the first metric against parameters, with the lines that the table asks for."""
    metric = found.table.experiment.metrics[0]
    lines: dict[str, list[tuple[int, list[float]]]] = {}
    for row in found.table.rows:
        if values := found.values(row.key, metric):
            label = ", ".join(str(getattr(row, name)) for name in found.table.line)
            lines.setdefault(label, []).append((found.parameters(row.key), values))
    plot_errors(lines, f"{found.table.title}, {found.task.data}", path, metric.title)


def _caption(found: TableRuns) -> str:
    command = f"python -m benchmarks run {found.table.name} --data {found.task.data} --device {found.task.device}"
    clause = found.table.experiment.caption(found.sizes, asdict(found.task.recipe))
    return f"Made by `{command}`: {clause}, on {' and '.join(found.processors)}."


def _table(found: TableRuns) -> str:
    metrics = found.table.experiment.metrics
    lines = []
    for row in found.table.rows:
        if found.has(row.key):
            values = [found.values(row.key, metric) for metric in metrics]
            size = f"{found.parameters(row.key):,}"
            scores = [_score(each, metric.digits) for each, metric in zip(values, metrics, strict=True)]
            lines.append([str(row.network), row.method, row.budget, size, *scores, str(len(values[0]))])
    titles = [metric.title for metric in metrics]
    return markdown_table(["network", "method", "budget", "parameters", *titles, "seeds"], lines)


def _score(values: list[float], digits: int) -> str:
    return f"{statistics.mean(values):,.{digits}f} ± {spread(values):,.{digits}f}"


def _verdicts(claim: Claim, found: TableRuns) -> str:
    """Return a claim with its verdicts as an item of a list, or nothing where no pair was run."""
    rows, metrics = {row.key: row for row in found.table.rows}, found.table.experiment.metrics
    metric = {each.name: each for each in metrics}[claim.metric] if claim.metric else metrics[0]
    places: dict[Verdict, list[str]] = {verdict: [] for verdict in Verdict}
    for first, second in claim.pairs:
        if found.has(first) and found.has(second):
            values = found.values(first, metric), found.values(second, metric)
            verdict = judge(*reversed(values) if metric.higher_is_better else values)
            place = _place((rows[first], rows[second]), [(rows[one], rows[other]) for one, other in claim.pairs])
            places[verdict].append(
                f"{place} ({_score(values[0], metric.digits)} against {_score(values[1], metric.digits)})".lstrip()
            )
    verdicts = [f"\n  * **{verdict}**: {'; '.join(each)}" for verdict, each in places.items() if each]
    return "".join([f"* {claim.sentence}:", *verdicts]) if verdicts else ""


def _place(pair: tuple[Row, Row], pairs: Sequence[tuple[Row, Row]]) -> str:
    """Name a pair of rows by that in which it differs from the other pairs of its claim, or else by the budget."""
    parts = []
    for name in ("network", "method", "budget"):
        first, second = (str(getattr(row, name)) for row in pair)
        first_varies, second_varies = (len({getattr(rows[side], name) for rows in pairs}) > 1 for side in (0, 1))
        if first_varies and second_varies and first != second:
            parts.append(f"{first} after {second}")
        elif first_varies:
            parts.append(first)
        elif second_varies:
            parts.append(second)
    return ", ".join(parts) or pair[0].budget
