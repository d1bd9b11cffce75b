"""The benchmarks of errors, in the order that they are shown in.

To add one, write a file with a ``COMPARISON`` and list it below.
"""

from benchmarks.comparison import Comparison
from benchmarks.comparisons import (
    budget_sweep,
    starting_values,
)

COMPARISONS: dict[str, Comparison] = {
    module.COMPARISON.name: module.COMPARISON
    for module in (
        budget_sweep,
        starting_values,
    )
}
