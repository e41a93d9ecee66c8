"""The ledger: lines by the study that they concern."""

from dataclasses import replace

from orchestrator.events import (
    HaltRequested,
    PlacementsDecided,
    StageCompleted,
    StudyForgotten,
    StudySubmitted,
)
from orchestrator.packing import BestFit
from orchestrator.schema import Allocation, Outcome, TrialState
from orchestrator.state import SchedulerState, validate
from tests.unit.orchestrator.builders import demand, joined, stage, study, trials, variant


def sharing(*study_ids: str) -> SchedulerState:
    """Studies of one trial each that all wait for one stage, which runs as bundle "0" for the first of them."""
    state = SchedulerState(max_attempts=2)
    state.handle(joined(1))
    for study_id in study_ids:
        made = trials([variant(stage("main"))], study_id)
        event = StudySubmitted(at=0.0, study=study(study_id), trials=made, demands={">main": demand()})
        state.handle(event)
    snapshot = state.snapshot(1.0)
    placements = tuple(BestFit()(snapshot, snapshot.queue))
    state.handle(PlacementsDecided(at=1.0, placements=placements, bundle_ids=("0",)))
    return state


def end(state: SchedulerState, *study_ids: str) -> None:
    for study_id in study_ids:
        state.studies[study_id] = replace(state.studies[study_id], ended_at=9.0)
        state.handle(StudyForgotten(at=9.0, study_id=study_id))
    validate(state)


def lines_of(state: SchedulerState, study_id: str) -> list[str]:
    return [line.bundle_id for line in state.allocations(study_id)]


def test_a_line_is_of_the_study_that_it_runs_for_while_it_is_open_and_closed() -> None:
    state = sharing("first", "second")
    assert (lines_of(state, "first"), lines_of(state, "second")) == (["0"], [])
    state.handle(StageCompleted(at=5.0, bundle_id="0", outcome=Outcome()))
    assert (lines_of(state, "first"), lines_of(state, "second")) == (["0"], [])
    assert [line.closed_at for line in state.allocations("first")] == [5.0]


def test_a_closed_line_concerns_everybody_that_was_charged_and_counts_once() -> None:
    state = sharing("first", "second")
    state.handle(StageCompleted(at=5.0, bundle_id="0", outcome=Outcome()))
    assert [len(state.ledger.concerning(study_id)) for study_id in ("first", "second")] == [1, 1]
    assert [line.bundle_id for line in state.ledger] == ["0"]


def test_a_line_stays_for_those_that_are_still_known() -> None:
    state = sharing("first", "second")
    state.handle(StageCompleted(at=5.0, bundle_id="0", outcome=Outcome()))
    end(state, "second")
    assert set(state.studies) == {"first", "second"}, "a study that shares a line with an open one is not forgotten"
    end(state, "first")
    assert [line.bundle_id for line in state.ledger] == ["0"]
    end(state, "second")
    assert (list(state.ledger), state.stages) == ([], {})


def test_a_line_that_outlived_its_study_is_kept_for_those_that_were_charged() -> None:
    state = sharing("first", "second")
    leave = HaltRequested(at=2.0, trial_ids=("first-0000",), into=TrialState.CANCELLED, reason="not needed")
    state.handle(leave)
    end(state, "first")
    assert set(state.studies) == {"second"}
    state.handle(StageCompleted(at=5.0, bundle_id="0", outcome=Outcome()))
    assert [line.study_id for line in state.ledger.concerning("second")] == ["first"]
    validate(state)


def test_lines_come_back_with_their_study_once() -> None:
    state = sharing("first")
    state.handle(StageCompleted(at=5.0, bundle_id="0", outcome=Outcome()))
    again: list[Allocation] = state.allocations("first")
    state.restore_lines("first", again)
    assert lines_of(state, "first") == ["0"]
    validate(state)
