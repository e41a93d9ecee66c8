"""From the event machine to the live view."""

import pytest

from orchestrator.events import (
    BundleStopped,
    HaltRequested,
    PlacementsDecided,
    StageCompleted,
    StageReported,
    StudySubmitted,
)
from orchestrator.packing import BestFit
from orchestrator.report.progress import progress_of
from orchestrator.schema import Outcome, TrialState
from orchestrator.state import SchedulerState
from tests.unit.orchestrator.builders import demand, joined, stage, study, submitted, trials, variant


def pack(state: SchedulerState, at: float, *names: str) -> None:
    snapshot = state.snapshot(at)
    placements = tuple(BestFit()(snapshot, snapshot.queue))
    assert len(placements) == len(names)
    state.handle(PlacementsDecided(at=at, placements=placements, bundle_ids=names))


@pytest.fixture
def state() -> SchedulerState:
    """Two trials behind a finished warm-up, both running."""
    state = SchedulerState(max_attempts=1)
    state.handle(joined(2))
    state.handle(submitted(3))
    pack(state, 0.0, "warmup")
    state.handle(StageCompleted(at=10.0, bundle_id="warmup", outcome=Outcome(metrics={"dev_accuracy": 0.25})))
    pack(state, 10.0, "first", "second")
    return state


def test_devices_show_who_sits_on_them_and_how_far_they_are(state: SchedulerState) -> None:
    state.handle(StageReported(at=12.0, bundle_id="first", step=5, metrics={}, progress=0.5))
    devices = progress_of(state, "study-1", now=12.0).devices
    assert [(r.trial_numbers, r.stage, r.progress) for d in devices for r in d.residents] == [
        ((0,), "main", 0.5),
        ((1,), "main", 0.0),
    ]


def test_the_best_so_far_is_the_highest_dev_accuracy_of_running_and_finished_trials(state: SchedulerState) -> None:
    assert progress_of(state, "study-1", now=11.0).best == ()
    state.handle(StageReported(at=12.0, bundle_id="first", step=5, metrics={"eval/accuracy": 0.4}, progress=0.5))
    state.handle(StageCompleted(at=13.0, bundle_id="second", outcome=Outcome(metrics={"dev_accuracy": 0.7})))
    (best,) = progress_of(state, "study-1", now=13.0).best
    assert (best.accuracy, best.trial_number) == (0.7, 1)


def test_what_the_queue_waits_for_is_said(state: SchedulerState) -> None:
    progress = progress_of(state, "study-1", now=11.0)
    assert progress.message == "trial 2 waits for 1 device(s) with share 1 free; 2 bundle(s) sit on 2"
    assert progress.counts[TrialState.QUEUED] == 1


def test_the_eta_comes_from_what_has_run(state: SchedulerState) -> None:
    # 10 s for the warm-up's 10 steps; two stages of 30 steps run on a device each, and one comes after.
    assert progress_of(state, "study-1", now=10.0).eta_s == pytest.approx(60.0)


def test_nobody_can_say_when_it_ends_before_anything_has_run() -> None:
    state = SchedulerState(max_attempts=1)
    state.handle(joined(2))
    state.handle(submitted(3))
    assert progress_of(state, "study-1", now=0.0).eta_s is None


def test_others_in_the_queue_are_counted(state: SchedulerState) -> None:
    other = trials([variant(stage("other"))], "study-2")
    demands = {">other": demand()}
    state.handle(StudySubmitted(at=11.0, study=study("study-2"), trials=other, demands=demands))
    assert progress_of(state, "study-1", now=11.0).message.endswith("; 1 more of other studies wait in this queue")


def test_paused_trials_are_counted_and_are_no_part_of_the_eta(state: SchedulerState) -> None:
    halt = HaltRequested(at=11.0, trial_ids=("study-1-0002",), into=TrialState.PAUSED, reason="paused")
    state.handle(halt)
    progress = progress_of(state, "study-1", now=10.0)
    assert progress.counts[TrialState.PAUSED] == 1
    assert progress.eta_s == pytest.approx(30.0)


def test_a_study_that_is_over_has_nothing_left(state: SchedulerState) -> None:
    trial_ids = tuple(state.trials)
    state.handle(HaltRequested(at=11.0, trial_ids=trial_ids, into=TrialState.CANCELLED, reason="cancelled"))
    for name in ("first", "second"):
        state.handle(BundleStopped(at=12.0, bundle_id=name))
    assert progress_of(state, "study-1", now=12.0).eta_s == 0.0
