"""Marking shortest paths: equal layers with weights of their own, with shared ones, and pushed towards a loop."""

from __future__ import annotations

from benchmarks.claims import Claim
from benchmarks.experiments.shortest_paths import WINDOWS, PixelwiseStack, ShortestPaths, plain, soft_shared
from benchmarks.row import Row
from benchmarks.table import Table, pairs

NETWORK = PixelwiseStack()

ROWS = (
    Row(NETWORK, "CNN", "", plain),
    Row(NETWORK, "SCNN", "", soft_shared),
    Row(NETWORK, "SCNN-R", "", soft_shared, recipe={"regulariser": 0.01}),
)

TABLE = Table(
    name="shortest_paths",
    title="Shortest paths",
    source="Savarese and Maire 2019, section 4.3",
    expectation=(
        "A network marks the pixels of all shortest paths between two points in a grid with obstacles, while the "
        "points move apart phase by phase. All networks have equal layers: with weights of their own (CNN), with as "
        "many templates as layers for all of them to mix (SCNN), and with a regulariser that pushes them towards the "
        "same mixture (SCNN-R). Most pixels lie on no path, so F1 is compared, and its mean over epochs, which tells "
        "how fast a network adapts. Sharing is expected to adapt faster than separate weights, and the regulariser to "
        "be no slower; in the paper it is ahead in the first phase only."
    ),
    rows=ROWS,
    claims=(
        *(
            Claim(f"{claim}, window {window}", pairs(ROWS, first, second), f"f1_{window}")
            for claim, first, second in (
                ("Shared layers adapt faster than separate ones", "SCNN", "CNN"),
                ("With the regulariser they adapt at least as fast", "SCNN-R", "SCNN"),
            )
            for window in WINDOWS
        ),
    ),
    experiment=ShortestPaths(),
)
