"""Studies, variants, stages, trials: what is asked for and what came of it.

A `study` is one submitted sweep. A `variant` is one resolved config, made of ordered `stages`. A `trial` is one run of
a variant inside a study. Stages are content-addressed: equal keys mean equal outputs, so a stage that several trials
need is run once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

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
    # A policy that held a trial back decides in the end that it stays where it is. One that goes on may find that its
    # last stage was run for somebody else meanwhile.
    TrialState.PAUSED: frozenset({TrialState.QUEUED, TrialState.CANCELLED, TrialState.PRUNED, TrialState.COMPLETED}),
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
    `package.module:function`, resolved by the worker only; `fused_entrypoint` too: the program that trains it together
    with others of its fusion key, "" where there is none. A *warm* stage starts from the kept checkpoint `warm_from` of
    another one, taken at step `warm_step`, and both are in its key.

    Stages of one `trunk` ("" for none) train the same way, bit for bit, up to the step `trunk_steps` that each has. One
    that ends there leaves its training state in its output. One that `continues` another (its key) goes on from that
    state, of step `warm_step`, if it is there, and from its own beginning if not: it comes to the same, so none of this
    is in its key.
    """

    name: str
    key: str
    parent_key: str
    entrypoint: str
    config: Mapping[str, Any]
    budget_steps: int
    warm_from: str = ""
    warm_step: int = 0
    fused_entrypoint: str = ""
    trunk: str = ""
    trunk_steps: int = 0
    continues: str = ""

    @property
    def leaves_state(self) -> bool:
        """Whether its output holds its training state, for longer stages of its trunk to continue."""
        return bool(self.trunk) and self.trunk_steps == self.budget_steps

    @property
    def own_steps(self) -> int:
        """The steps of its budget that are not those of the stage which it continues."""
        return self.budget_steps - (self.warm_step if self.continues else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One fully resolved, validated config. `key` hashes what affects the result, not where it runs. `algorithm`: how
    it is trained, as variants are compared: the name of its algorithm, or of a recipe with algorithms of its own."""

    key: str
    algorithm: str
    seed: int
    overrides: tuple[str, ...]
    config: Mapping[str, Any]
    stages: tuple[Stage, ...]

    @property
    def before_last(self) -> tuple[Stage, ...]:
        """The stages of the recipe before its last one."""
        return tuple(stage for stage in self.stages if not self.is_about(stage))

    def is_about(self, stage: Stage) -> bool:
        """Whether the stage is the recipe's last one, or a part of the trunk that this one continues."""
        return stage.name == self.stages[-1].name

    @property
    def setting(self) -> tuple[str, ...]:
        """The overrides that make it what it is: all but its seed and what it is compared as."""
        return tuple(text for text in self.overrides if not self._names(text))

    def _names(self, override: str) -> bool:
        key, _, value = override.partition("=")
        return key in ("seed", "algorithm") or (key == "recipe" and value == self.algorithm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One submitted sweep. `config` is the resolved base config, `sweep` the sweep overrides that made the trials,
    `overrides` all that was given. `device_kind` is unknown (None) until a device has joined that can run it. `halted`:
    a person paused or cancelled the study as a whole (`paused`, `cancelled`, or "" if not), and no search adds trials.
    """

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

    @property
    def reuses_stages(self) -> bool:
        """Whether what earlier studies left is taken over."""
        chosen = self.config.get("study", {})
        return bool(chosen.get("reuse_stages", True)) and bool(chosen.get("share_stages", True))

    halted: str = ""


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


class Evaluation(NamedTuple):
    """Dev accuracy (0 to 1) of a trial's last stage after so many steps, and what had been spent on that stage by then:
    tokens, and device-seconds as the trial was charged them. `folds`: the accuracy on each of several equal, disjoint
    parts of the dev problems, the same ones in every trial of a task; empty where the stage doesn't say."""

    step: float
    tokens: float
    device_seconds: float
    accuracy: float
    folds: tuple[float, ...] = ()


class Fate(StrEnum):
    """What becomes of a trial that a stopping policy stopped."""

    HELD = "held"
    """It is paused, or about to be, and may be promoted; it is pruned once nothing can promote it any more."""
    PROMOTED = "promoted"
    """The policy took its verdict back."""
    FINISHING = "finishing"
    """It was drawn to train to its end all the same, so that one sees what stopping costs."""
    OVERRULED = "overruled"
    """A person has said what shall become of it: policies leave it alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyStop:
    """The verdict of a stopping policy on a trial: at which `rung`, with what confidence (0 to 1), why in words, what
    the trial had held in all by then [device-seconds], and whether it was `drawn` to be finished anyway."""

    policy: str
    rung: int
    confidence: float
    gpu_seconds: float
    why: str
    drawn: bool = False
    fate: Fate = Fate.HELD


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run of a variant inside a study.

    `stage_index` points at the stage that is next or running; it equals `len(variant.stages)` once all are done.
    `progress` is the fraction of the current stage. `gpu_seconds` is the trial's part of the ledger: what its stages
    held, a shared stage's hold split evenly among the trials that waited for it. `reused_stages` counts the stages
    whose output another trial's (or an earlier study's) run provided. `latest` holds the newest point of each of its
    series, `[step, value]` by name, `metrics` the final values. `cloned_from` is a trial's id; `preemptions` counts how
    often the trial had to make room; `queued_at` is when it began to wait for its current stage.

    For stopping policies: `stage_gpu_seconds` is what its current stage held, `evaluations` what its last stage reached
    and when (of a study that has such a policy), `stopped` their last verdict on it.
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
    stage_gpu_seconds: float = 0.0
    evaluations: tuple[Evaluation, ...] = ()
    stopped: EarlyStop | None = None

    @property
    def held(self) -> bool:
        """A stopping policy has paused it, and may let it go on."""
        return self.state is TrialState.PAUSED and self.stopped is not None and self.stopped.fate is Fate.HELD

    @property
    def budget_fraction(self) -> float:
        """The fraction of the full budget that this trial has results for, reused stages included (0 to 1)."""
        total = sum(stage.own_steps for stage in self.variant.stages)
        done: float = sum(stage.own_steps for stage in self.variant.stages[: self.stage_index])
        if self.stage_index < len(self.variant.stages):
            stage = self.variant.stages[self.stage_index]
            done += max(0.0, self.progress * stage.budget_steps - (stage.budget_steps - stage.own_steps))
        return done / total

    @property
    def reused_fraction(self) -> float:
        """The part of `budget_fraction` that came from reused stages, or from the parent of a warm clone (0 to 1)."""
        total = sum(stage.own_steps for stage in self.variant.stages)
        reused = sum(s.own_steps for s in self.variant.stages if s.key in self.reused_stages)
        last = self.variant.stages[-1]
        if self.cloned_from and last.warm_from and last.key not in self.reused_stages:
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
    device, `host_memory_bytes` that of the bundle on its node. `phase_dir` has the gates of its device, if it takes
    turns with who sits beside it ("": it doesn't). `parks`: it does so in memory too, and has its optimizer's state in
    host memory whenever it isn't learning.
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
    phase_dir: str = ""
    parks: bool = False
