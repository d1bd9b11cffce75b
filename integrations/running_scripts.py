"""Running another library's script in a process that has imported an integration of this one."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from shapeshift.errors import ModelError


def run_script(arguments: list[str], example: str) -> None:
    """Run a script as Python does, in this process.

    Args:
        arguments: The path of the script, and its own arguments.
        example: A command to show where the script is missing.

    Raises:
        ModelError: if there is no such script.
    """
    if not arguments or not Path(arguments[0]).is_file():
        missing = f"there is no script {arguments[0]}" if arguments else "name a script to run"
        raise ModelError(f"{missing}: {example}")
    sys.argv = arguments
    sys.path[0] = str(Path(arguments[0]).resolve().parent)  # as Python does for a script
    runpy.run_path(arguments[0], run_name="__main__")
