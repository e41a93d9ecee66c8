"""A trace's trials as the event machine takes them: studies, trials, and stages that know how long they last."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.events import Event, StudySubmitted, TrialsAdded
from orchestrator.history import Durations, Expected
from orchestrator.schema import Demand, DeviceKind, Outcome, Stage, Study, TraceStage, TraceTrial, Trial, Variant

# Before the keys of a trace in those of the machine.
_SHARED = "shared/"
# A trace doesn't say how many steps a stage has. Work is counted, and stopped, in as many parts.
STEPS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedStage(Stage):
    """A stage of a trace. `shared`: other trials may need its output, also later. `devices`: how many it asks for.
    `phases`: the parts of its time by name, which add up to 1; none are one part that is called as the stage."""

    duration_s: float = 0.0
    shared: bool = False
    devices: int = 1
    phases: Mapping[str, float] = field(default_factory=dict)


class KnownDurations(Durations):
    """What a stage of a trace will take is read off the trace."""

    def observe(self, bundle_id: str, stage: Stage, steps: float, held_s: float, width: int = 1) -> None:
        """Nothing is left to learn."""

    def expected_s(self, stage: Stage, left: float = 1.0, width: int = 1) -> float | None:
        return left * duration_of(stage)

    def expected(self, stage: Stage, left: float = 1.0, width: int = 1) -> Expected | None:
        total_s, steps = duration_of(stage), float(stage.budget_steps)
        rate, left_s = total_s / steps, left * total_s
        return Expected(value=left_s, low=left_s, high=left_s, runs=1, work=steps, rate=rate, basis="the trace")

    def knows(self, stage: Stage, width: int = 1) -> bool:
        return True


def duration_of(stage: Stage) -> float:
    """How long a stage of a trace takes alone [s]."""
    assert isinstance(stage, TracedStage), "a simulation runs stages of a trace only"
    return stage.duration_s


def alone_s(trial: Trial) -> float:
    """How long a trial of a trace would take if it had the cluster to itself [s]."""
    return sum(duration_of(stage) for stage in trial.variant.stages)


def is_gang(trial: Trial) -> bool:
    """Whether any of a trial's stages needs several devices at once."""
    return any(isinstance(stage, TracedStage) and stage.devices > 1 for stage in trial.variant.stages)


def key_in_trace(stage_key: str) -> str:
    """The key that a stage has in its trace, if it has one there."""
    return stage_key.removeprefix(_SHARED)


@dataclass(slots=True)
class Submissions:
    """Makes the events by which trials arrive. knows: whether a study is known to the machine at that moment.
    available: those of some stages' keys whose output is there. step_s: how long a step of any stage takes alone [s];
    0: every stage has `STEPS` steps."""

    knows: Callable[[str], bool]
    available: Callable[[Sequence[str]], set[str]]
    step_s: float = 0.0
    _count: int = 0
    # Studies whose submission the machine has yet to hear of: what happens at one instant is told in one go.
    _on_the_way: set[str] = field(default_factory=set)
    _at: float = -math.inf

    def arrive(self, trials: Sequence[TraceTrial], at: float) -> list[Event]:
        """The trials of one study, tenant and priority arrive together."""
        study = _study(trials[0], at)
        made = tuple(self._trial(trial, study.study_id, at) for trial in trials)
        stages = [stage for trial in made for stage in trial.variant.stages]
        demands = {stage.key: s.demand for stage, s in zip(stages, (s for t in trials for s in t.stages), strict=True)}
        shared = [stage.key for stage in stages if isinstance(stage, TracedStage) and stage.shared]
        there = {key: Outcome() for key in self.available(shared)} if shared else {}
        if at > self._at:
            self._on_the_way.clear()
            self._at = at
        if study.study_id in self._on_the_way or self.knows(study.study_id):
            return [TrialsAdded(at=at, trials=made, demands=demands, available_stages=there)]
        self._on_the_way.add(study.study_id)
        return [StudySubmitted(at=at, study=study, trials=made, demands=demands, available_stages=there)]

    def _trial(self, trial: TraceTrial, study_id: str, at: float) -> Trial:
        self._count += 1
        parent_key = ""
        stages: list[Stage] = []
        for index, stage in enumerate(trial.stages):
            stages.append(_stage(stage, f"{trial.trial_id}/{index}", parent_key, self.step_s))
            parent_key = stages[-1].key
        variant = Variant(
            key=trial.trial_id, algorithm=stages[-1].name, seed=0, overrides=(), config=_NO_CONFIG, stages=tuple(stages)
        )
        return Trial(
            trial_id=trial.trial_id,
            study_id=study_id,
            number=self._count,
            variant=variant,
            submitted_at=at,
            queued_at=at,
        )


_NO_CONFIG: dict[str, Any] = {}


def _stage(stage: TraceStage, own_key: str, parent_key: str, step_s: float) -> TracedStage:
    total_s = sum(stage.phases.values())
    return TracedStage(
        name=stage.name,
        key=_SHARED + stage.key if stage.key else own_key,
        parent_key=parent_key,
        entrypoint="",
        config=_config_of(stage.demand.kind or stage.name),
        budget_steps=max(1, round(stage.duration_s / step_s)) if step_s else STEPS,
        duration_s=stage.duration_s,
        shared=bool(stage.key),
        devices=stage.demand.devices,
        phases={name: seconds / total_s for name, seconds in stage.phases.items()} if total_s else {stage.name: 1.0},
    )


def _config_of(kind: str) -> dict[str, Any]:
    """What durations that are learned go by: stages of one kind are alike."""
    if kind not in _CONFIGS:
        _CONFIGS[kind] = {"algorithm": {"name": kind}}
    return _CONFIGS[kind]


_CONFIGS: dict[str, dict[str, Any]] = {}


def _study(trial: TraceTrial, at: float) -> Study:
    """A study has one tenant and one priority; trials of one that have several are several studies."""
    plain = trial.tenant == "default" and not trial.priority
    study_id = trial.study_id if plain else f"{trial.study_id}@{trial.tenant}/{trial.priority}"
    return Study(
        study_id=study_id,
        name=trial.study_id,
        sweep=(),
        config=_NO_CONFIG,
        submitted_at=at,
        device_kind=DeviceKind.CUDA,
        tenant=trial.tenant,
        priority=trial.priority,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Of a trace as a whole: how often each demand comes, and when its first and its last trial do [s]."""

    demands: Mapping[Demand, float]
    first_at: float
    last_at: float


def survey_of(trials: Iterable[TraceTrial]) -> Survey:
    """In one pass: a long trace is made while it is read."""
    counts: dict[Demand, float] = {}
    first_at, last_at = math.inf, -math.inf
    for trial in trials:
        first_at, last_at = min(first_at, trial.submitted_at), trial.submitted_at
        for stage in trial.stages:
            counts[stage.demand] = counts.get(stage.demand, 0.0) + 1.0
    return Survey(demands=counts, first_at=first_at, last_at=last_at)


def demands_of(trials: Iterable[TraceTrial]) -> Mapping[Demand, float]:
    """How often each demand comes in a trace."""
    return survey_of(trials).demands
