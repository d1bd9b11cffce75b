"""How a weight is stretched from a store that is smaller than it."""

from __future__ import annotations

from benchmarks.claims import Claim
from benchmarks.experiments.classification import quick
from benchmarks.experiments.networks import WRN_16_1, compressed, reduced
from benchmarks.row import Row
from benchmarks.table import Table, pairs

UPSAMPLERS = ("tile", "interpolate", "inter", "mask", "repeat", "wavg")

ROWS = tuple(
    row
    for budget in ("4k", "6k", "12k")
    for row in (
        Row(WRN_16_1, "reduced", budget, reduced),
        *(
            Row(WRN_16_1, upsampler, budget, compressed, {"mapping": "single", "upsample": upsampler})
            for upsampler in UPSAMPLERS
        ),
    )
)

TABLE = Table(
    name="upsampling",
    title="Parameter upsampling",
    source="Plummer et al. 2022, tables 6 and 10",
    expectation=(
        "Budgets so small that the store does not hold the larger layers once: the paper's interpolation (`inter`), "
        "learned masks over repetitions (`mask`), plain repetition (`repeat`) and learned averages of the store's "
        "halves (`wavg`), and two of our own: interpolation that keeps kernel positions separate (`interpolate`), "
        "and repetition that moves on by one entry (`tile`, the default). Forms whose copies differ are expected "
        "to be ahead of plain repetition, and all of them ahead of a thinner network."
    ),
    rows=ROWS,
    claims=(
        Claim("Learned masks are ahead of plain repetition", pairs(ROWS, "mask", "repeat")),
        Claim("Learned averages are ahead of plain repetition", pairs(ROWS, "wavg", "repeat")),
        Claim("The paper's interpolation is ahead of plain repetition", pairs(ROWS, "inter", "repeat")),
        Claim("Repetition that moves on is on par with plain repetition or ahead", pairs(ROWS, "tile", "repeat")),
        Claim(
            "Interpolation between channels only is on par with the paper's or ahead",
            pairs(ROWS, "interpolate", "inter"),
        ),
        *(
            Claim(f"Sharing with `{upsampler}` is ahead of a thinner network", pairs(ROWS, upsampler, "reduced"))
            for upsampler in UPSAMPLERS
        ),
    ),
    adapt=quick,
)
