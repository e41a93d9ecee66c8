"""Content keys: what counts as the same stage.

A key chains the stage's config, its parent's key, the bytes of its data file, the source of the `experiments` package
and the versions of the packages that compute. Where a stage runs (devices, share, cluster) is not in it.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

COMPUTING_PACKAGES = ("torch", "deepspeed", "numpy", "reasoning-gym")


def stage_key(config: Mapping[str, Any], parent_key: str) -> str:
    """32 hex digits. `config` is JSON-compatible; raises OSError if `config.task.path` names a file that is gone."""
    data_path = config["task"].get("path", "")
    parts = {
        # The bytes of a data file count, not where it lies.
        "config": {**config, "task": {k: v for k, v in config["task"].items() if k != "path"}},
        "parent": parent_key,
        "data": _file_digest(data_path) if data_path else "",
        "code": code_digest(_package_of(config["algorithm"].get("entrypoint", ""))),
        "packages": _versions(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _package_of(entrypoint: str) -> str:
    return entrypoint.split(":", 1)[0].split(".", 1)[0] or "experiments"


@cache
def code_digest(package: str) -> str:
    """Digest of every source file of an importable top-level package, found without importing it."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return ""
    digest = hashlib.sha256()
    for root in spec.submodule_search_locations:
        for path in sorted(Path(root).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in COMPUTING_PACKAGES}


def _file_digest(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
