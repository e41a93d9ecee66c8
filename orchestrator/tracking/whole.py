"""A file that is made whole or not at all, whoever is killed while making it."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path


def make_whole(path: Path, make: Callable[[Path], None]) -> None:
    """Have `make` write a file of another name beside `path`, then give it its name; nothing if `path` is there."""
    if path.exists():
        return
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    try:
        make(unfinished)
        # Not a rename: another process may have made it meanwhile, and is writing to it.
        with contextlib.suppress(FileExistsError):
            os.link(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
