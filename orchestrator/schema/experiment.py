"""Studies, variants, stages, trials: what is asked for and what came of it.

A `study` is one submitted sweep. A `variant` is one resolved config, made of ordered `stages`. A `trial` is one run of
a variant inside a study. Stages are content-addressed: equal keys mean equal outputs, so a stage that several trials
need is run once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from orchestrator.schema.resources import DeviceKind


class TrialState(StrEnum):
    """The durable life of a trial."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    PRUNED = "pruned"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """The trial is over. Only a person can bring it back: by `retry` or `extend`."""
        return self in _TERMINAL

    def may_become(self, other: "TrialState") -> bool:
        """Whether that transition exists. Staying as it is does for every state: progress is written that way."""
        return other is self or other in _TRANSITIONS[self]

    @property
    def decided(self) -> bool:
        """The experiment gave its answer: full budget, or stopped early by a policy that had the evidence."""
        return self in _DECIDED


_TERMINAL = frozenset({TrialState.COMPLETED, TrialState.PRUNED, TrialState.FAILED, TrialState.CANCELLED})
_DECIDED = frozenset({TrialState.COMPLETED, TrialState.PRUNED})
_TRANSITIONS: Mapping[TrialState, frozenset[TrialState]] = {
    # A trial whose last stage another one runs completes, or fails with it, without ever running itself.
    TrialState.QUEUED: frozenset(TrialState) - {TrialState.QUEUED},
    TrialState.RUNNING: frozenset(TrialState) - {TrialState.RUNNING},
    TrialState.PAUSED: frozenset({TrialState.QUEUED, TrialState.CANCELLED}),
    # `extend` gives a larger budget, `retry` another chance.
    TrialState.COMPLETED: frozenset({TrialState.QUEUED}),
    TrialState.PRUNED: frozenset({TrialState.QUEUED}),
    TrialState.FAILED: frozenset({TrialState.QUEUED}),
    TrialState.CANCELLED: frozenset({TrialState.QUEUED}),
}


class StageState(StrEnum):
    """The life of one content-addressed stage output."""

    ABSENT = "absent"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One step of a recipe. `config` is plain data (see `schema.training.StageConfig`); `budget_steps` its full length.

    `key` chains the stage's own config, its parent's key, and the versions of data and code. `entrypoint` is
    `package.module:function`, resolved by the worker only. A *warm* stage starts from the kept checkpoint `warm_from`
    of another one, taken at step `warm_step`, and both are in its key.
    """

    name: str
    key: str
    parent_key: str
    entrypoint: str
    config: Mapping[str, Any]
    budget_steps: int
    warm_from: str = ""
    warm_step: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One fully resolved, validated config. `key` hashes what affects the result, not where it runs."""

    key: str
    algorithm: str
    seed: int
    overrides: tuple[str, ...]
    config: Mapping[str, Any]
    stages: tuple[Stage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One submitted sweep. `config` is the resolved base config, `sweep` the sweep overrides that made the trials,
    `overrides` all that was given. `device_kind` is unknown (None) until a device has joined that can run it."""

    study_id: str
    name: str
    sweep: tuple[str, ...]
    config: Mapping[str, Any]
    submitted_at: float
    device_kind: DeviceKind | None = None
    git_revision: str = ""
    ended_at: float | None = None
    overrides: tuple[str, ...] = ()
    tenant: str = "default"
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a stage run gave: final metrics by name, seconds spent computing, and the peak memory of its processes.

    `finished` is False when the stage ended at a step boundary because it was asked to; its checkpoint then lies in
    `Assignment.checkpoint_dir` and there is no output.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    busy_s: float = 0.0
    peak_memory_bytes: int = 0
    finished: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run of a variant inside a study.

    `stage_index` points at the stage that is next or running; it equals `len(variant.stages)` once all are done.
    `progress` is the fraction of the current stage. `gpu_seconds` is the trial's part of the ledger: what its stages
    held, a shared stage's hold split evenly among the trials that waited for it. `reused_stages` counts the stages
    whose output another trial's (or an earlier study's) run provided. `latest` holds the newest point of each of its
    series, `[step, value]` by name, `metrics` the final values. `cloned_from` is a trial's id; `preemptions` counts how
    often the trial had to make room; `queued_at` is when it began to wait for its current stage.
    """

    trial_id: str
    study_id: str
    number: int
    variant: Variant
    state: TrialState = TrialState.QUEUED
    stage_index: int = 0
    progress: float = 0.0
    attempt: int = 0
    submitted_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    latest: Mapping[str, Sequence[float]] = field(default_factory=dict)
    gpu_seconds: float = 0.0
    reused_stages: tuple[str, ...] = ()
    error: str = ""
    preemptions: int = 0
    cloned_from: str = ""
    queued_at: float | None = None

    @property
    def budget_fraction(self) -> float:
        """The fraction of the full budget that this trial has results for, reused stages included (0 to 1)."""
        total = sum(stage.budget_steps for stage in self.variant.stages)
        done: float = sum(stage.budget_steps for stage in self.variant.stages[: self.stage_index])
        if self.stage_index < len(self.variant.stages):
            done += self.progress * self.variant.stages[self.stage_index].budget_steps
        return done / total

    @property
    def reused_fraction(self) -> float:
        """The part of `budget_fraction` that came from reused stages, or from the parent of a warm clone (0 to 1)."""
        total = sum(stage.budget_steps for stage in self.variant.stages)
        reused = sum(s.budget_steps for s in self.variant.stages if s.key in self.reused_stages)
        last = self.variant.stages[-1]
        if self.cloned_from and last.key not in self.reused_stages:
            reused += min(last.warm_step, last.budget_steps)
        return min(self.budget_fraction, reused / total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """All that a worker process is told: the stage, its folders, and the slice of devices it may use.

    The worker writes its result into `output_dir`, a fresh folder that whoever launched it commits by a rename.
    `parent_dir` holds the parent stage's committed output ("" for a first stage), `checkpoint_dir` survives between
    attempts and beyond the stage's end, `warm_dir` holds the kept checkpoint that a warm stage starts from where
    `checkpoint_dir` has none yet ("" for a stage that is not warm), `cache_dir` holds data that any stage may share.
    `rendezvous` is a file that the `world_size` processes of a gang meet at. `memory_bytes` is the share's limit per
    device, `host_memory_bytes` that of the bundle on its node.
    """

    bundle_id: str
    stage: Stage
    output_dir: str
    parent_dir: str
    checkpoint_dir: str
    cache_dir: str
    device_kind: DeviceKind
    device_indexes: tuple[int, ...]
    share: float
    threads: int
    memory_bytes: int
    rank: int = 0
    world_size: int = 1
    rendezvous: str = ""
    warm_dir: str = ""
    host_memory_bytes: int = 0
