"""From overrides to a study that is ready to be queued: everything that can be refused is refused here."""

import ast
import secrets
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from orchestrator.config import ConfigError
from orchestrator.dotted import resolve
from orchestrator.estimate import stage_demands
from orchestrator.home import Home
from orchestrator.schema import Demand, DeviceKind, Study, Trial, Variant
from orchestrator.schema.training import AnyModelConfig, TaskConfig, stage_config
from orchestrator.sweep import MAX_VARIANTS, ComposedStudy, Space, compose_study
from orchestrator.sweep.trunks import EndsAtHand, share_trunks


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A composed, validated sweep whose data has been read. `config` is the resolved base config, `overrides` what was
    given for it. One that is searched has a `space`, no variants yet, and `probes`, of which `compose_study` tells."""

    name: str
    config: Mapping[str, Any]
    overrides: tuple[str, ...]
    sweep: tuple[str, ...]
    variants: tuple[Variant, ...]
    space: Space | None = None
    probes: tuple[Variant, ...] = ()

    @property
    def trial_count(self) -> int:
        """How many trials there are, or may become."""
        return len(self.variants) if self.space is None else int(self.config["search"]["trials"])

    def demands(self, kind: DeviceKind) -> dict[str, Demand]:
        """What each stage asks for, by stage key."""
        stages = [stage for variant in (*self.variants, *self.probes) for stage in variant.stages]
        return stage_demands(stages, self.config["cluster"], kind)

    def new_study(self, now: float) -> Study:
        """A study of its own for this submission, named after it and the time (UTC)."""
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%d-%H%M%S")
        return Study(
            study_id=f"{self.name}-{stamp}-{secrets.token_hex(2)}",
            name=self.name,
            sweep=self.sweep,
            config=self.config,
            submitted_at=now,
            git_revision=git_revision(),
            overrides=self.overrides,
            tenant=self.config["study"]["tenant"],
            priority=self.config["study"]["priority"],
        )

    def trials(self, study: Study) -> tuple[Trial, ...]:
        """One per variant, queued."""
        return tuple(
            Trial(
                trial_id=f"{study.study_id}-{number:04d}",
                study_id=study.study_id,
                number=number,
                variant=variant,
                submitted_at=study.submitted_at,
                queued_at=study.submitted_at,
            )
            for number, variant in enumerate(self.variants)
        )


def prepare(
    overrides: Sequence[str],
    home: Home,
    check: Callable[[ComposedStudy], None] | None = None,
    max_variants: int = MAX_VARIANTS,
) -> Submission:
    """Compose, validate, and read the data of every task once, so that no trial has to. Raises ConfigError.

    `check` may refuse what was composed before anything that it names is imported or read.
    """
    composed = compose_study(overrides, max_variants=max_variants)
    if check is not None:
        check(composed)
    home.prepare()
    variants = (*composed.variants, *composed.probes)
    for entrypoint, field_name in _entrypoints(variants).items():
        check_entrypoint(entrypoint, field_name)
    for task, model in _tasks(variants):
        _read_task(task, home.cache, model)
    return Submission(
        name=composed.name,
        config=composed.config,
        overrides=tuple(overrides),
        sweep=composed.sweep,
        variants=with_trunks(composed, home),
        space=composed.space,
        probes=composed.probes,
    )


def with_trunks(composed: ComposedStudy, home: Home) -> tuple[Variant, ...]:
    """The study's variants, with what several of them have in common, or an earlier study left, put before their own
    stages. A stopping policy compares runs that each went their own way: under one nothing is cut."""
    config = composed.config
    chosen = config["study"]
    if not (chosen["share_stages"] and chosen["share_trunks"]) or config["stopping"]["name"] != "never":
        return composed.variants
    return share_trunks(composed.variants, _ends_at_hand(config, home))


def _ends_at_hand(config: Mapping[str, Any], home: Home) -> EndsAtHand:
    """Outputs of the home whose training state a gang of this study's size can go on from."""
    if not config["study"]["reuse_stages"]:
        return lambda trunk: ()
    return lambda trunk: home.trunk_ends(trunk, config["cluster"]["devices_per_trial"])


def _entrypoints(variants: Sequence[Variant]) -> dict[str, str]:
    """Every entrypoint, with the field that a person would set it by."""
    found: dict[str, str] = {}
    for variant in variants:
        for stage in variant.stages:
            if stage.entrypoint in found:
                continue
            of_variant = stage.config["algorithm"] == variant.config["algorithm"]
            place = "" if of_variant else f"recipe.stages.{stage.name}."
            found[stage.entrypoint] = f"{place}algorithm.entrypoint"
    return found


def _tasks(variants: Sequence[Variant]) -> list[tuple[TaskConfig, AnyModelConfig]]:
    """Every different task, and for every tokenizer. Variants share theirs as an object, most of the time."""
    stages = {
        (id(stage.config["task"]), *_tokens(stage.config["model"])): stage
        for variant in variants
        for stage in variant.stages[:1]
    }
    different = {(repr(stage.config["task"]), *key[1:]): stage_config(stage.config) for key, stage in stages.items()}
    return [(config.task, config.model) for config in different.values()]


def _tokens(model: Mapping[str, Any]) -> tuple[Any, ...]:
    """What of a model its tokenizer depends on."""
    return model["name"], model.get("path"), model.get("chat_template")


def _read_task(task: TaskConfig, cache: Path, model: AnyModelConfig) -> None:
    load = resolve(task.loader, "task.loader")
    try:
        load(task, cache, model)
    except TypeError as error:
        remedy = f"can't read the task ({error}); give a function of (config, cache folder, config of the model)"
        raise ConfigError("task.loader", task.loader, remedy) from error
    except (ValueError, OSError) as error:
        message = " ".join(str(error).split())
        raise ConfigError("task", task.name, message) from error


def check_entrypoint(dotted: str, field_name: str) -> None:
    """Raises ConfigError if `package.module:function` names nothing. Looks without importing: stages import torch."""
    module, _, name = dotted.partition(":")
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not name:
        problem = f"no module named {module!r}" if name else "names no function"
        raise ConfigError(field_name, dotted, f"{problem}; give package.module:function")
    if spec.origin and spec.origin.endswith(".py") and name not in _names_in(Path(spec.origin)):
        raise ConfigError(field_name, dotted, f"{module} has no {name!r}; give package.module:function")


def _names_in(source: Path) -> set[str]:
    """Every name that a module's source binds or imports, in whatever block."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_bytes())):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.alias(name=name, asname=asname):
                names.add(asname or name)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
    return names


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
