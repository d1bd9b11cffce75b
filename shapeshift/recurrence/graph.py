"""The graph of a recurrent network as Mermaid text."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from shapeshift.recurrence.schedule import Schedule


def mermaid(schedules: Sequence[Schedule]) -> str:
    """Return a Mermaid flowchart with a subgraph for each stage.

    A node is a block, and equal numbers in two nodes of a stage are equal weights. An arrow leads to the block that
    runs next, and a dotted one back to a block that has run before.

    Args:
        schedules: The schedule of each stage.
    """
    return "\n".join(["flowchart LR", *(line for place in enumerate(schedules) for line in _subgraph(*place))])


def _subgraph(place: int, schedule: Schedule) -> Iterator[str]:
    """Yield the lines of one stage; identifiers of nodes are made of places, since names can hold any character."""
    blocks = list(dict.fromkeys(schedule.blocks))
    title = f"{schedule.stage}: {len(schedule.blocks)} steps, {len(blocks)} block{'s' * (len(blocks) > 1)}"
    yield f'  subgraph s{place}["{_escape(title)}"]'
    for block in blocks:
        weights = " ".join(map(str, schedule.weights[block]))
        yield f'    s{place}b{block}["{_escape(schedule.steps[block])}<br>weights {weights}"]'
    yield f"    s{place}start(( )) --> s{place}b{schedule.blocks[0]}"
    for (here, there), times in Counter(itertools.pairwise(schedule.blocks)).items():
        arrow = "-.->" if there <= here else "-->"
        label = f"|{times}x|" if times > 1 else ""
        yield f"    s{place}b{here} {arrow}{label} s{place}b{there}"
    yield f"    s{place}b{schedule.blocks[-1]} --> s{place}end(( ))"
    yield "  end"


def _escape(text: str) -> str:
    """Replace the characters that Mermaid reads as its own by their codes."""
    return re.sub(r"[^\w .,:-]", lambda found: f"#{ord(found[0])};", text)
