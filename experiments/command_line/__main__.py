"""The command line as a module: ``python -m shapeshift.experiments.command_line``."""

import sys

from shapeshift.experiments.command_line.main import main

if __name__ == "__main__":
    sys.exit(main())
