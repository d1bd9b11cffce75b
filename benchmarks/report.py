"""Tables, pictures and the pages of results, all made from the runs and the other JSON files on disk."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import memory, reproduce, step_time
from benchmarks.claims import Claim, Comparison, Verdict, seeds_needed
from benchmarks.experiments.base import Metric
from benchmarks.experiments.networks import reduced
from benchmarks.markdown import markdown_table
from benchmarks.recipes import PAPER_TABLES
from benchmarks.results import RESULTS
from benchmarks.row import Row
from benchmarks.runs import RunStore
from benchmarks.table import Table
from benchmarks.table_runs import TableRuns, find_table_runs
from benchmarks.tables import PAPERS, TABLES, Paper
from shapeshift.experiments.error_plot import plot_errors, spread

DOCS = Path(__file__).parent.parent / "docs"
TOLD = 0.5  # the share of comparisons that a table has to decide, to be on a page

INTRODUCTION = """\
# Results

Every number here is read from JSON files in `benchmarks/results`, which the commands on these pages write, and
`python -m benchmarks report` makes the pages. Two rows are compared seed by seed. The *95% interval* of the mean
difference is Student's; each interval stands alone, so of twenty equal pairs one looks different by chance. *Ahead*
and *behind* say that the interval excludes 0, *on par* that all of it lies within the difference that matters (0.3
points of test error), *cannot tell* that more seeds are needed. The data sets are smaller than those of the papers:
compare the order of rows, not values. [](reproduce.md) has the papers' own networks and recipes.
"""

# The results of other scripts, and the introduction of each.
MEASUREMENTS = {
    "step_time": """\
## Time and memory of a training step

Generating costs most where there is little else to do: the batches of the ViT and of the ResNet are small. The papers'
generator mixes as many templates of a store of the same size, but slices the store in each layer.
""",
    "step_sizes": """\
## Size of an optimizer's step

An optimizer's rule for rows or channels reads a store, whose pieces are columns, as rows of one entry. A ratio of 1
means that weights move as far as those of the dense model; [](../choosing.md) says which optimizer wants what.
""",
    "muon": """\
## Muon and AdamW

{class}`shapeshift.Muon` makes the step of each weight orthogonal, and maps it back to the store. A store that several
weights read keeps part of the gain that Muon has on the dense model. In a ring, entries of many places meet in one
number, and little or nothing of it is left.
""",
    "cost_of_distillation": """\
## Time of a training step with distillation
""",
    "feature_ranks": """\
## Time of measuring ranks
""",
}

FIGURES = {
    "error_against_parameters_fashion_mnist_cpu": "Test error against parameters on Fashion-MNIST",
    "memory_cpu": "Peak memory of training and time of a step against the budget",
    "step_time_cpu": "Time of a training step relative to the dense model's",
}


def write_report(found: TableRuns, folder: Path = RESULTS) -> str:
    """Write the rows of a table as CSV, and its picture if it has one.

    Args:
        found: The runs of the table.
        folder: The folder that both are written into.

    Returns:
        The rows and the comparisons, as Markdown.
    """
    header, *lines = _rows(found)
    (folder / f"{found.name}.csv").write_text(to_csv(found), encoding="utf-8")
    picture = folder / f"{found.name}.png"
    if found.table.line:
        plot(found, picture)
    elif found.table.experiment.picture:
        values = {row.method: [run.values for run in found.runs[row.key]] for row in found.table.rows}
        found.table.experiment.draw({method: runs for method, runs in values.items() if runs}, found.sizes, picture)
    return f"{markdown_table(header, lines)}\n\n{render(found)}"


def to_csv(found: TableRuns) -> str:
    """Return the rows of a table as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(_rows(found))
    return text.getvalue()


def plot(found: TableRuns, path: Path) -> None:
    """Draw the first metric against parameters, with the lines that the table asks for."""
    metric = found.table.experiment.metrics[0]
    lines: dict[str, list[tuple[int, list[float]]]] = {}
    for row in found.table.rows:
        if values := found.values(row.key, metric):
            label = ", ".join(str(getattr(row, name)) for name in found.table.line)
            lines.setdefault(label, []).append((found.parameters(row.key), values))
    plot_errors(lines, f"{found.table.title}, {found.task.data}", path, metric.title)


def reported(table: Table, store: RunStore) -> list[TableRuns]:
    """Return a table's runs on each data set and device that it was run on, where they decide enough comparisons.

    Its CSV file tells where it was run: on other data sets, it may share some runs with tables that were.
    """
    run = [found for found in find_table_runs(table, store) if (RESULTS / f"{found.name}.csv").exists()]
    return [found for found in run if tells(found)]


def tells(found: TableRuns) -> bool:
    """Tell whether runs decide at least half of the comparisons that they allow."""
    verdicts = [comparison.verdict for claim in found.table.claims for *_, comparison in comparisons(claim, found)]
    return bool(verdicts) and sum(verdict != Verdict.UNDECIDED for verdict in verdicts) >= TOLD * len(verdicts)


def comparisons(claim: Claim, found: TableRuns) -> Iterator[tuple[Row, Row, Comparison]]:
    """Yield the pairs of a claim that share a seed, with their comparison."""
    rows = {row.key: row for row in found.table.rows}
    for first, second in claim.pairs:
        comparison = found.compare(first, second, _metric(claim, found))
        if comparison.differences:
            yield rows[first], rows[second], comparison


def write_pages(store: RunStore) -> None:
    """Make all tables, all pictures and the pages of results anew."""
    for table in (table for paper in PAPERS for table in _tables(paper)):
        for found in reported(table, store):
            write_report(found)
    for measurement in (memory, step_time):
        for path in RESULTS.glob(f"{measurement.__name__.rpartition('.')[2]}_*.json"):
            measurement.plot(json.loads(path.read_text(encoding="utf-8")), path.with_suffix(".png"))
    reproduce.write()
    for name, text in pages(store).items():
        (DOCS / name).parent.mkdir(exist_ok=True)
        (DOCS / name).write_text(text, encoding="utf-8")


def pages(store: RunStore) -> dict[str, str]:
    """Return the pages of results, by their names below the folder of the documentation."""
    papers = {f"results/{paper.name}.md": text for paper in PAPERS if (text := _paper_page(paper, store))}
    measured = [
        part
        for name, introduction in MEASUREMENTS.items()
        for part in (introduction, *(path.read_text(encoding="utf-8") for path in sorted(RESULTS.glob(f"{name}*.md"))))
    ]
    subpages = {
        **papers,
        "results/claims.md": _claims_page(store),
        "reproduce.md": reproduce.page(),
        "results/speed.md": "\n".join(["# Time and memory\n", *measured]),
    }
    toctree = "\n".join(["```{toctree}", ":maxdepth: 1", "", *(name.removesuffix(".md") for name in subpages), "```\n"])
    parts = [INTRODUCTION, _verdicts(store), *_figures(), _conclusions(store), toctree]
    return {"results.md": "\n".join(part for part in parts if part), **subpages}


def _verdicts(store: RunStore) -> str:
    """Return the table of verdicts, one line for each table on each data set."""
    lines = []
    for paper in PAPERS:
        for found in (found for table in _tables(paper) for found in reported(table, store)):
            counts = Counter(each.verdict for claim in found.table.claims for *_, each in comparisons(claim, found))
            link = f"[{found.table.title}](results/{paper.name}.md)"
            lines.append([link, found.task.data, *(str(counts[verdict] or "") for verdict in Verdict)])
    shown = markdown_table(["comparisons that were expected ahead or on par", "data", *Verdict], lines)
    return f"{shown}\n\n[](results/claims.md) lists every claim, those that no runs decide too.\n"


def _figures() -> list[str]:
    pictures = {title: f"../benchmarks/results/{name}.png" for name, title in FIGURES.items()}
    return [f"![{title}]({path})\n" for title, path in pictures.items() if (DOCS / path).exists()]


def _conclusions(store: RunStore) -> str:
    """Return a paragraph on the cost of budgets, in the differences that were measured on Fashion-MNIST."""
    table, dense = TABLES["error_against_parameters"], "WRN-16-1/dense/"
    metric = table.experiment.metrics[0]
    parts = []
    for found in reported(table, store):
        for row in found.table.rows if found.task.data == "fashion_mnist" and found.has(dense) else ():
            thin = [other.key for other in table.rows if other.build is reduced and other.budget == row.budget]
            thin = [key for key in thin if found.has(key)]
            if row.method == "wavg" and found.has(row.key) and thin:
                best = min(thin, key=lambda key: statistics.mean(found.values(key, metric)))
                # The better one of two rows has less error, so the first row's lead is the second row's excess.
                excess = [found.compare(other, row.key, metric) for other in (dense, best)]
                verdicts = [found.compare(row.key, other, metric).verdict for other in (dense, best)]
                parts.append(
                    f"with {found.parameters(row.key) / found.parameters(dense):.0%} of the parameters its test error "
                    f"differs by {excess[0]} points from the dense network's ({verdicts[0]}), and by {excess[1]} from "
                    f"that of the better thinner network ({verdicts[1]})"
                )
    if not parts:
        return ""
    return f"""\
**What to do.** Compressed WRN-16-1 on Fashion-MNIST: {"; ".join(parts)}.
Take a compressed network rather than a thinner one where the size of the file, of the optimizer or of what is sent is
limited. Take the thinner one where time or the memory of activations is: a compressed network computes as long as the
dense one. Compress a transformer with `mapping="shape"`: with one store for all weights it is behind a thinner one
([](results/defaults.md)). Where the size of the dense network is no problem, keep it: no runs here show that more
parameters than its own help.
"""


def _paper_page(paper: Paper, store: RunStore) -> str:
    """Return the page of a paper, or nothing where no runs tell."""
    parts = []
    for table in _tables(paper):
        shown = "Test error against parameters" if table.line else table.experiment.picture
        for place, found in enumerate(reported(table, store)):
            if place == 0:
                parts.append(f"## {table.title}\n\n*{table.source}.* {table.expectation}\n")
            parts.append(render(found))
            if shown:
                parts.append(f"![{shown}](../../benchmarks/results/{found.name}.png)\n")
    return "\n".join([f"# {paper.title}\n", *parts]) if parts else ""


def _claims_page(store: RunStore) -> str:
    """Return the table of all claims and the verdicts on each data set."""
    lines = []
    for table in TABLES.values():
        on_page = [found for each in (table, *_under_recipes(table)) for found in reported(each, store)]
        for claim in table.claims:
            found = [
                f"{each.task.data}: {', '.join(f'{counts[name]} {name}' for name in Verdict if counts[name])}"
                for each in on_page
                for same in each.table.claims
                if same.sentence == claim.sentence
                if (counts := Counter(comparison.verdict for *_, comparison in comparisons(same, each)))
            ]
            lines.append([table.title, claim.sentence, "; ".join(found) or "no runs that tell"])
    return f"""\
# All claims

What the papers, and we, expect, and the number of comparisons with each verdict. No runs tell where a table was not run
on a data set that decides at least half of its comparisons.

{markdown_table(["table", "claim", "found"], lines)}
"""


def render(found: TableRuns) -> str:
    """Return the comparisons of a table as Markdown."""
    command = f"{found.table.command} --data {found.task.data} --device {found.task.device}"
    clause = found.table.experiment.caption(found.sizes, asdict(found.task.recipe))
    rows, lines = {row.key: row for row in found.table.rows}, []
    for claim in found.table.claims:
        metric, sentence = _metric(claim, found), claim.sentence
        pairs = [(rows[first], rows[second]) for first, second in claim.pairs]
        for first, second, comparison in comparisons(claim, found):
            place = _place((first, second), pairs)
            means = [f"{statistics.mean(found.values(row.key, metric)):.{metric.digits}f}" for row in (first, second)]
            lines.append([sentence, place, *means, str(comparison), _seeds(comparison), f"**{comparison.verdict}**"])
            sentence = ""
    header = ["claim", "rows", "first", "second", "better by", "seeds", "verdict"]
    judged = dict.fromkeys(_metric(claim, found) for claim in found.table.claims)
    margins = "; ".join(f"{metric.title}, within {metric.margin:g}" for metric in judged)
    return (
        f"Made by `{command}`: {clause}, on {' and '.join(found.processors)}. "
        f"The metric is {margins}. The rows are in `benchmarks/results/{found.name}.csv`.\n\n"
        f"{markdown_table(header, lines) if lines else 'No pair of a claim was run.'}\n"
    )


def render_pilot(found: TableRuns) -> str:
    """Return, as Markdown, how many paired seeds each comparison needs to show the difference that matters."""
    lines = []
    for claim in found.table.claims:
        for first, second, comparison in comparisons(claim, found):
            if len(comparison.differences) > 1:
                deviation, needed = statistics.stdev(comparison.differences), _needed(comparison)
                lines.append([first.key, second.key, str(len(comparison.differences)), f"{deviation:.2f}", str(needed)])
    return markdown_table(["first", "second", "seeds", "deviation of the difference", "seeds needed"], lines)


def _needed(comparison: Comparison) -> int:
    return seeds_needed(comparison.differences, comparison.margin)


def _seeds(comparison: Comparison) -> str:
    """Return the number of seeds, and of how many where that does not tell."""
    count = len(comparison.differences)
    return str(count) if count < 2 or comparison.verdict != Verdict.UNDECIDED else f"{count} of {_needed(comparison)}"


def _tables(paper: Paper) -> Iterator[Table]:
    """Yield the tables of a paper, each with its variants under the papers' recipes."""
    for table in paper.tables:
        yield table
        yield from _under_recipes(table)


def _under_recipes(table: Table) -> list[Table]:
    return [each for each in PAPER_TABLES.values() if each.name == f"{table.name}_{each.recipe}"]


def _metric(claim: Claim, found: TableRuns) -> Metric:
    metrics = found.table.experiment.metrics
    return {each.name: each for each in metrics}[claim.metric] if claim.metric else metrics[0]


def _rows(found: TableRuns) -> list[list[str]]:
    """Return the head of a table and its rows that were run."""
    metrics = found.table.experiment.metrics
    lines = [["network", "method", "budget", "parameters", *(metric.title for metric in metrics), "seeds"]]
    for row in found.table.rows:
        if found.has(row.key):
            values = [found.values(row.key, metric) for metric in metrics]
            scores = [_score(each, metric.digits) for each, metric in zip(values, metrics, strict=True)]
            size = str(found.parameters(row.key))
            lines.append([str(row.network), row.method, row.budget, size, *scores, str(len(values[0]))])
    return lines


def _score(values: list[float], digits: int) -> str:
    return f"{statistics.mean(values):.{digits}f} ± {spread(values):.{digits}f}"


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
