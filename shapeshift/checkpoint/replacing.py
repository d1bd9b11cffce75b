"""Write a file beside its place, and move it there once it is complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; what is written there replaces the file when the block ends.

    Other processes see the old file or the whole new one. If the block raises an error, the old file stays.

    Args:
        file: The file to write or to replace. Its folder has to exist.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
