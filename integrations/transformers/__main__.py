"""Run a script of transformers, such as ``run_glue.py``, that loads compressed models.

python -m shapeshift.integrations.transformers run_glue.py --model_name_or_path folder ...
"""

from __future__ import annotations

import sys

import shapeshift.integrations.transformers  # noqa: F401 - it makes from_pretrained read compressed models
from shapeshift.integrations.running_scripts import run_script


def main(arguments: list[str]) -> None:
    """Run a script, such as ``run_glue.py`` of transformers, that can load compressed models.

    Args:
        arguments: The path of the script, and its own arguments.

    Raises:
        ModelError: if there is no such script.
    """
    run_script(arguments, "python -m shapeshift.integrations.transformers run_glue.py --model_name_or_path folder ...")


if __name__ == "__main__":
    main(sys.argv[1:])
