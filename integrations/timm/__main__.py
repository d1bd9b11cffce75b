"""Run a script of timm, such as ``train.py``, with the compressed models registered.

python -m shapeshift.integrations.timm train.py --model shapeshift_resnet50 --model-kwargs budget=25% ...
"""

from __future__ import annotations

import sys

from shapeshift.integrations.running_scripts import run_script
from shapeshift.integrations.timm import PREFIX


def main(arguments: list[str]) -> None:
    """Run a script, such as ``train.py`` of timm, with the compressed models registered.

    Args:
        arguments: The path of the script, and its own arguments.

    Raises:
        ModelError: if there is no such script.
    """
    run_script(arguments, f"python -m shapeshift.integrations.timm train.py --model {PREFIX}resnet50 ...")


if __name__ == "__main__":
    main(sys.argv[1:])
