"""From overrides to a study that is ready to be queued: everything that can be refused is refused here."""

import importlib
import secrets
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.config import ConfigError
from orchestrator.estimate import stage_demand
from orchestrator.home import Home
from orchestrator.schema import Demand, DeviceKind, Study, Variant
from orchestrator.schema.training import stage_config
from orchestrator.sweep import compose_study


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A composed, validated sweep whose data has been read. `config` is the resolved base config."""

    name: str
    config: Mapping[str, Any]
    sweep: tuple[str, ...]
    variants: tuple[Variant, ...]

    def demands(self, kind: DeviceKind) -> dict[str, Demand]:
        """What each stage asks for, by stage key."""
        stages = {stage.key: stage for variant in self.variants for stage in variant.stages}
        return {key: stage_demand(stage, self.config["cluster"], kind) for key, stage in stages.items()}

    def new_study(self, kind: DeviceKind, now: float) -> Study:
        """A study of its own for this submission, named after it and the time (UTC)."""
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%d-%H%M%S")
        return Study(
            study_id=f"{self.name}-{stamp}-{secrets.token_hex(2)}",
            name=self.name,
            sweep=self.sweep,
            config=self.config,
            submitted_at=now,
            device_kind=kind,
            git_revision=git_revision(),
        )


def prepare(overrides: Sequence[str], home: Home) -> Submission:
    """Compose, validate, and read the data of every task once, so that no trial has to. Raises ConfigError."""
    composed = compose_study(overrides)
    home.prepare()
    seen: set[str] = set()
    for variant in composed.variants:
        task = variant.stages[0].config["task"]
        if repr(task) not in seen:
            seen.add(repr(task))
            _read_task(variant, home.cache)
    return Submission(name=composed.name, config=composed.config, sweep=composed.sweep, variants=composed.variants)


def _read_task(variant: Variant, cache: Path) -> None:
    task = stage_config(variant.stages[0].config).task
    load = resolve(task.loader, "task.loader")
    try:
        load(task, cache)
    except (ValueError, OSError) as error:
        message = " ".join(str(error).split())
        raise ConfigError("task", task.name, message) from error


def resolve(dotted: str, field_name: str) -> Callable[..., Any]:
    """The object that `package.module:name` names. Raises ConfigError naming the field."""
    module, _, name = dotted.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(field_name, dotted, f"{error}; give package.module:name") from error
    return found


def git_revision() -> str:
    """Short revision of the code that runs, with `+dirty` if it has changes; empty outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        try:
            done = subprocess.run(
                ["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=5, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return ""
        return done.stdout.strip()

    revision = git("rev-parse", "--short=12", "HEAD")
    return f"{revision}+dirty" if revision and git("status", "--porcelain", "--untracked-files=no") else revision
