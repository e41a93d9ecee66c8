"""Journals of small studies in real stores, and what a tracker shows of them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.events import Record, RecordPoint, RecordStudy, RecordTrial, StudyFinished
from orchestrator.ports import Store
from orchestrator.schema import Study, Trial, TrialState
from tests.unit.orchestrator.builders import study, warm_started

AT = 1_700_000_000.0


def changed(trial: Trial, was: TrialState | None, why: str = "") -> RecordTrial:
    return RecordTrial(trial=trial, was=was, at=AT, why=why)


def point(trial: Trial, step: int) -> RecordPoint:
    return RecordPoint(
        study_id=trial.study_id,
        trial_id=trial.trial_id,
        step=step,
        metrics={"train/loss": 1.0 / (step + 1), "train/reward": 0.5},
        at=AT + step,
    )


def life(trials: Sequence[Trial], points: int, artifacts: Sequence[Path] = ()) -> Iterator[Record]:
    """All that the journal of a study gets from its start to its end; the trials report in turns."""
    begun: Study = replace(study(trials[0].study_id), submitted_at=AT)
    yield RecordStudy(study=begun)
    for trial in trials:
        yield changed(trial, None)
    for trial in trials:
        yield changed(replace(trial, state=TrialState.RUNNING, started_at=AT), TrialState.QUEUED)
    for step in range(points):
        for trial in trials:
            yield point(trial, step)
    for trial in trials:
        yield changed(finished(trial), TrialState.RUNNING)
    ended = replace(begun, ended_at=AT + points)
    yield RecordStudy(
        study=ended,
        finished=StudyFinished(metrics={"experiments_decided": 2.0}, artifacts=tuple(map(str, artifacts))),
    )


def finished(trial: Trial) -> Trial:
    return replace(
        trial,
        state=TrialState.COMPLETED,
        started_at=AT,
        ended_at=AT + 60,
        stage_index=len(trial.variant.stages),
        metrics={"accuracy": 0.5},
        gpu_seconds=4.5,
    )


def write_life(store: Store, *, trials: int = 2, points: int = 5) -> tuple[Trial, ...]:
    made = warm_started(trials)
    store.apply(list(life(made, points)))
    return made
