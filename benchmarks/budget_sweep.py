"""Another name for ``python -m benchmarks run budget_sweep``."""

import sys

from benchmarks.__main__ import main

if __name__ == "__main__":
    main(["run", "budget_sweep", *sys.argv[1:]])
