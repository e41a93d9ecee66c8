"""Content keys: what counts as the same stage. `sweep/README.md` has it as a table, `test_keys.py` tests every row.

A key chains the stage's config, its parent's key, the bytes of the files that the config names, the source of the
package that its entrypoint is in and the versions of the packages that compute; a warm stage's also what it starts
from. Where a stage runs (devices, share, cluster) and how much of its work was there already are not in it.

A *trunk* is what stages have in common that train the same way, bit for bit, until one of them ends or lets its
learning rate decay: its key is that of a stage whose rate stays constant, whatever its length.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from orchestrator.schema import Stage, Variant
from orchestrator.schema.training import Schedule, decay_steps

COMPUTING_PACKAGES = ("torch", "deepspeed", "numpy", "reasoning-gym", "transformers", "tokenizers", "peft")
# Of these the bytes count, not where they lie.
_FILES = (("task", "path"), ("model", "path"))
# What of a model's folder a stage reads.
_MODEL_FILES = frozenset({".json", ".safetensors", ".jinja", ".txt", ".model", ".py"})
_OF_DECAY = frozenset({"decay", "decay_fraction", "decay_steps"})


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
        return self._key(config, parent_key, _what_counts(config["optimizer"], config["algorithm"]["max_steps"]))

    def trunk(self, config: Mapping[str, Any], parent_key: str) -> tuple[str, int]:
        """The key of the stage's trunk and up to which step the stage is on it; ("", 0) if it shares none: its
        algorithm doesn't continue, or its learning rate depends on its length from the first step on."""
        algorithm, optimizer = config["algorithm"], config["optimizer"]
        steps = _steps_on_trunk(optimizer, algorithm["max_steps"])
        if not algorithm.get("continues") or steps < 1:
            return "", 0
        return self.key(on_trunk(config, 0), parent_key), steps

    def _key(self, config: Mapping[str, Any], parent_key: str, optimizer: Mapping[str, Any]) -> str:
        others = ((name, part) for name, part in config.items() if name != "optimizer")
        parts = {name: self._part(part) if isinstance(part, Mapping) else part for name, part in others}
        files = {part: self._data_digest(config[part].get(name, "")) for part, name in _FILES}
        return _digest(
            {
                "config": {**parts, "optimizer": _digest(optimizer)},
                "parent": parent_key,
                "data": files,
                "code": code_digest(_package_of(config["algorithm"].get("entrypoint", ""))),
                "packages": _versions(),
            }
        )[:32]

    def _part(self, part: Mapping[str, Any]) -> str:
        if id(part) not in self._digests:
            counts = {name: value for name, value in part.items() if name != "path"}
            self._digests[id(part)] = (part, _digest(counts))
        return self._digests[id(part)][1]

    def _data_digest(self, path: str) -> str:
        if path and path not in self._data:
            self._data[path] = _digest_at(Path(path))
        return self._data.get(path, "")


def stage_key(config: Mapping[str, Any], parent_key: str) -> str:
    """The key of one stage; see `StageKeys.key`."""
    return StageKeys().key(config, parent_key)


def on_trunk(config: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """The config of the stage that ends after `steps` steps of another one's trunk."""
    algorithm = {**config["algorithm"], "max_steps": steps}
    optimizer = {**config["optimizer"], "schedule": Schedule.constant.value}
    return {**config, "algorithm": algorithm, "optimizer": optimizer}


def _steps_on_trunk(optimizer: Mapping[str, Any], max_steps: int) -> int:
    match optimizer.get("schedule"):
        case Schedule.constant:
            return max_steps
        case Schedule.wsd:
            return max_steps - decay_steps(optimizer, max_steps)
    return 0


def _what_counts(optimizer: Mapping[str, Any], max_steps: int) -> dict[str, Any]:
    """Of an optimizer's config: the decay as its schedule reads it."""
    counts = {name: value for name, value in optimizer.items() if name not in _OF_DECAY}
    if optimizer.get("schedule") == Schedule.wsd:
        counts |= {"decay": optimizer["decay"], "decay_steps": decay_steps(optimizer, max_steps)}
    return counts


def warm_variant(variant: Variant, kept: str, step: int) -> Variant:
    """The variant with a last stage that starts from the kept checkpoint, taken at `step`: another key, since what a
    stage starts from affects what it finds."""
    last = variant.stages[-1]
    key = hashlib.sha256(f"{last.key}:{kept}:{step}".encode()).hexdigest()[:32]
    warm = replace(last, key=key, warm_from=kept, warm_step=step, trunk="", trunk_steps=0, continues="")
    return replace(variant, key=key, stages=(*variant.before_last, warm))


def unshared_variant(variant: Variant) -> Variant:
    """The variant with stages that nobody else has: their keys say whose they are."""
    whose = " ".join(variant.overrides)
    stages: list[Stage] = []
    for stage in variant.stages:
        key = hashlib.sha256(f"{stage.key}:{whose}".encode()).hexdigest()[:32]
        parent_key = stages[-1].key if stages else ""
        stages.append(replace(stage, key=key, parent_key=parent_key, trunk="", trunk_steps=0))
    return replace(variant, key=stages[-1].key, stages=tuple(stages))


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
    return {name: _version(name) for name in COMPUTING_PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # an optional one
        return ""


def _digest_at(path: Path) -> str:
    """Of a file's bytes; of a model's folder, of the files in it that are read, with their names."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in _MODEL_FILES and file.is_file())
        return _digest({file.name: _digest_at(file) for file in files})
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
