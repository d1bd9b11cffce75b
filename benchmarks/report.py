"""Tables, pictures and the page of results, all made from the JSON files that the benchmarks wrote."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.claims import Claim, Verdict, judge
from benchmarks.markdown import RESULTS, markdown_table
from benchmarks.results import Results
from benchmarks.row import Row
from benchmarks.table import Table
from benchmarks.tables import TABLES
from shapeshift.experiments.error_plot import plot_errors, spread

PAGE = Path(__file__).parent.parent / "docs" / "results.md"

INTRODUCTION = """\
# Results

Every number on this page is read from a JSON file in `benchmarks/results` that the named command wrote, and
`python -m benchmarks report` makes the page from the files. `python -m benchmarks list` names the benchmarks; each
resumes where it was stopped. Repeat a command to measure your own machine.

Test errors are means and standard deviations over seeds. All rows of a table are trained by one recipe unless a row
says otherwise, without augmentation and without a validation set. Where a paper has the table, its networks and data
sets are larger ones: orderings can be compared, values cannot. The expected order of two rows is called *reproduced*
or *not reproduced* if their means lie further apart than the larger one of their standard deviations, and otherwise
*within one standard deviation*, which is where rows are that are expected to be on par.
"""

# What other scripts measured, and how each begins on the page.
MEASUREMENTS = {
    "step_time": """\
## Time and memory of a training step

Generating costs most where there is little else to do: the batches of the ViT and of the ResNet are small. The papers'
generator mixes as many templates of a store of the same size, but slices the store in each layer.
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


def result_file(table: Table, data: str, device: str, folder: Path = RESULTS) -> Path:
    """Return the JSON file of a table on a data set and device."""
    return folder / f"{table.name}_{data}_{device}.json"


def write_report(table: Table, results: Results, path: Path) -> str:
    """Write the table of a table, and its picture if it has one, beside its JSON file.

    Args:
        table: what was compared.
        results: the runs.
        path: of the JSON file.

    Returns:
        The table with the verdicts, as Markdown.
    """
    text = render(table, results)
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    if table.line:
        plot(table, results, path.with_suffix(".png"))
    elif table.experiment.picture:
        runs = {row.method: results.of(row.key) for row in table.rows if results.has(row.key)}
        table.experiment.draw(runs, results.settings["data"], path.with_suffix(".png"))
    return text


def write_page() -> None:
    """Make all tables, all pictures and the page of results anew from the JSON files."""
    for table in TABLES.values():
        for path in result_files(table):
            write_report(table, Results.read(path), path)
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """Return the page of results."""
    parts = [INTRODUCTION]
    for table in TABLES.values():
        files = result_files(table)
        if files:
            parts.append(f"## {table.title}\n\n*{table.source}.* {table.expectation}\n")
        for path in files:
            parts.append(render(table, Results.read(path)))
            shown = "Test error against parameters" if table.line else table.experiment.picture
            if shown:
                parts.append(f"![{shown}](../benchmarks/results/{path.stem}.png)\n")
    for name, introduction in MEASUREMENTS.items():
        tables = sorted(RESULTS.glob(f"{name}*.md"))
        if tables:
            parts += [introduction, *(table.read_text(encoding="utf-8") for table in tables)]
    return "\n".join(parts)


def render(table: Table, results: Results) -> str:
    """Return the table of a table, and under it the verdicts on its claims, as Markdown."""
    parts = [_caption(table, results), _table(table, results)]
    missing = sum(not results.has(row.key) for row in table.rows)
    if missing:
        parts.append(f"Not run yet: {missing} of {len(table.rows)} rows.")
    verdicts = [text for claim in table.claims if (text := _verdicts(claim, table, results))]
    parts += ["Expected, and found:", "\n".join(verdicts)] if verdicts else []
    return "\n\n".join(parts) + "\n"


def plot(table: Table, results: Results, path: Path) -> None:
    """Draw the first metric against parameters, with the lines that the table asks for."""
    metric = table.experiment.metrics[0]
    lines: dict[str, list[tuple[int, list[float]]]] = {}
    for row in table.rows:
        if values := results.values(row.key, metric):
            label = ", ".join(str(getattr(row, name)) for name in table.line)
            lines.setdefault(label, []).append((results.parameters(row.key), values))
    plot_errors(lines, f"{table.title}, {results.settings['data']['name']}", path, metric.title)


def _caption(table: Table, results: Results) -> str:
    data, device, recipe = (results.settings[key] for key in ("data", "device", "recipe"))
    command = f"python -m benchmarks run {table.name} --data {data['name']} --device {device}"
    clause = table.experiment.caption(data, recipe)
    return f"Made by `{command}`: {clause}, on {results.settings['machine']['processor']}."


def _table(table: Table, results: Results) -> str:
    metrics = table.experiment.metrics
    lines = []
    for row in table.rows:
        if results.has(row.key):
            values = [results.values(row.key, metric) for metric in metrics]
            size = f"{results.parameters(row.key):,}"
            scores = [_score(found) for found in values]
            lines.append([str(row.network), row.method, row.budget, size, *scores, str(len(values[0]))])
    titles = [metric.title for metric in metrics]
    return markdown_table(["network", "method", "budget", "parameters", *titles, "seeds"], lines)


def _score(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f} ± {spread(values):.2f}"


def _verdicts(claim: Claim, table: Table, results: Results) -> str:
    """Return a claim with its verdicts as an item of a list, or nothing where no pair was run."""
    rows, metrics = {row.key: row for row in table.rows}, table.experiment.metrics
    metric = {each.name: each for each in metrics}[claim.metric] if claim.metric else metrics[0]
    found: dict[Verdict, list[str]] = {verdict: [] for verdict in Verdict}
    for first, second in claim.pairs:
        if results.has(first) and results.has(second):
            values = results.values(first, metric), results.values(second, metric)
            verdict = judge(*reversed(values) if metric.higher_is_better else values)
            place = _place((rows[first], rows[second]), [(rows[one], rows[other]) for one, other in claim.pairs])
            found[verdict].append(f"{place} ({_score(values[0])} against {_score(values[1])})".lstrip())
    verdicts = [f"\n  * **{verdict}**: {'; '.join(places)}" for verdict, places in found.items() if places]
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


def result_files(table: Table) -> list[Path]:
    """Return the JSON files that a table has."""
    return sorted(RESULTS.glob(f"{table.name}_*_*.json"))
