"""What a simulation leaves behind: its results as JSON, and the page."""

import contextlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from orchestrator.config import ConfigError
from orchestrator.simulation.page import html_page
from orchestrator.simulation.results import Result


def results_json(results: Sequence[Result]) -> str:
    """A JSON list with one object a run."""
    return json.dumps([result.to_json() for result in results], indent=2, allow_nan=False)


def new_folder(parent: Path, name: str) -> Path:
    """A folder in `parent` that was not there: `name`, or with a number behind it. Raises ConfigError."""
    numbered = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    try:
        for folder in (parent / text for text in numbered):
            with contextlib.suppress(FileExistsError):
                folder.mkdir(parents=True)
                return folder
    except OSError as error:
        raise ConfigError("--out", parent, f"{error.strerror}; name a folder that can be written") from error
    raise AssertionError("numbers never end")


def write_files(folder: Path, name: str, command: str, results: Sequence[Result]) -> tuple[Path, ...]:
    """Write `results.json` and `simulation.html` into `folder` (made if missing); their paths. Raises ConfigError."""
    texts = {"results.json": results_json(results) + "\n", "simulation.html": html_page(name, command, results)}
    paths = tuple(folder / name for name in texts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, texts.values(), strict=True):
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError("--out", folder, f"{error.strerror}; name a folder that can be written") from error
    return paths
