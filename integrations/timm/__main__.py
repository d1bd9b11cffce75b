"""Run a script of timm, such as ``train.py``, with the compressed models registered.

python -m shapeshift.integrations.timm train.py --model shapeshift_resnet50 --model-kwargs budget=25% ...
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from shapeshift.errors import ModelError
from shapeshift.integrations.timm import PREFIX


def main(arguments: list[str]) -> None:
    """Run a script, such as ``train.py`` of timm, with the compressed models registered.

    Args:
        arguments: The path of the script, and its own arguments.

    Raises:
        ModelError: if there is no such script.
    """
    if not arguments or not Path(arguments[0]).is_file():
        missing = f"there is no script {arguments[0]}" if arguments else "name a script to run"
        raise ModelError(f"{missing}: python -m shapeshift.integrations.timm train.py --model {PREFIX}resnet50 ...")
    sys.argv = arguments
    sys.path[0] = str(Path(arguments[0]).resolve().parent)  # as Python does for a script
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
