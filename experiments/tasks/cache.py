"""Generated problems on disk: one file per generation, named by a hash of all that generation depends on.

Sizes of splits, limits and thresholds are no part of the name, so a study that varies them generates once.
"""

import json
import os
import tempfile
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from experiments.tasks.task import Problem
from orchestrator.schema.training import TaskConfig

_LAYOUT = 1
"""Raise it when the file's layout, or what `generate` does with the same config, changes."""


def cache_key(config: TaskConfig) -> str:
    """Hex hash of the fields that generation reads and of the version of reasoning-gym."""
    depends_on = {
        "layout": _LAYOUT,
        "reasoning_gym": version("reasoning-gym"),
        "source": config.source,
        "dataset": config.dataset,
        "options": config.options,
        "size": config.size,
        "seed": config.seed,
        "prompt": config.prompt,
        "strip_spaces": config.strip_spaces,
        "answer_format": config.answer_format,
        "commutative": config.commutative,
    }
    return sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()


def generated(config: TaskConfig, cache_dir: Path, generate: Callable[[], list[Problem]]) -> list[Problem]:
    """`generate()`, or what it returned before for the same `cache_key`.

    The file appears whole or not at all. Processes that miss at once wait for the first of them, which generates.
    """
    path = cache_dir / f"{config.dataset}-{cache_key(config)[:16]}.json"
    problems = _read(path)
    if problems is not None:
        return problems
    from filelock import FileLock  # here, since every load but the first does without

    cache_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        problems = _read(path)
        if problems is None:
            problems = generate()
            _write(path, problems)
    return problems


def _read(path: Path) -> list[Problem] | None:
    try:
        columns = json.loads(path.read_bytes())
        return list(map(Problem, columns["prompt"], columns["answer"], columns["entry"]))
    except FileNotFoundError:
        return None


def _write(path: Path, problems: list[Problem]) -> None:
    columns = {name: [getattr(problem, name) for problem in problems] for name in ("prompt", "answer", "entry")}
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(columns, file)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
