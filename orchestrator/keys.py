"""Content keys: what counts as the same stage.

A key chains the stage's config, its parent's key, the bytes of its data file, the source of the `experiments` package
and the versions of the packages that compute; a warm stage's also what it starts from. Where a stage runs (devices,
share, cluster) is not in it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from orchestrator.schema import Variant

COMPUTING_PACKAGES = ("torch", "deepspeed", "numpy", "reasoning-gym")


_encode = json.JSONEncoder(sort_keys=True).encode


def _digest(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(_encode(plain).encode()).hexdigest()


class StageKeys:
    """Keys of the stages of many variants. A part (`optimizer`, `task`, ...) that their configs share as an object is
    encoded once, and a data file is read once, so neither may change while this lives."""

    def __init__(self) -> None:
        # By identity, with the part itself, so that its number stays its own.
        self._digests: dict[int, tuple[Mapping[str, Any], str]] = {}
        self._data: dict[str, str] = {}

    def key(self, config: Mapping[str, Any], parent_key: str) -> str:
        """32 hex digits. `config` is JSON-compatible; raises OSError if `config.task.path` names a file that is
        gone."""
        parts = {
            "config": {name: self._part(part) if isinstance(part, Mapping) else part for name, part in config.items()},
            "parent": parent_key,
            "data": self._data_digest(config["task"].get("path", "")),
            "code": code_digest(_package_of(config["algorithm"].get("entrypoint", ""))),
            "packages": _versions(),
        }
        return _digest(parts)[:32]

    def _part(self, part: Mapping[str, Any]) -> str:
        if id(part) not in self._digests:
            # The bytes of a data file count, not where it lies.
            counts = {name: value for name, value in part.items() if name != "path"}
            self._digests[id(part)] = (part, _digest(counts))
        return self._digests[id(part)][1]

    def _data_digest(self, path: str) -> str:
        if path and path not in self._data:
            self._data[path] = _file_digest(path)
        return self._data.get(path, "")


def stage_key(config: Mapping[str, Any], parent_key: str) -> str:
    """The key of one stage; see `StageKeys.key`."""
    return StageKeys().key(config, parent_key)


def warm_variant(variant: Variant, kept: str, step: int) -> Variant:
    """The variant with a last stage that starts from the kept checkpoint, taken at `step`: another key, since what a
    stage starts from affects what it finds."""
    last = variant.stages[-1]
    key = hashlib.sha256(f"{last.key}:{kept}:{step}".encode()).hexdigest()[:32]
    warm = replace(last, key=key, warm_from=kept, warm_step=step)
    return replace(variant, key=key, stages=(*variant.stages[:-1], warm))


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
