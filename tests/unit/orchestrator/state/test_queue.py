"""The queue of stages that wait: order, what it asks for, and who is passed over."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.events import HaltRequested, NodeLost, StudySubmitted
from orchestrator.schema import Demand, TrialState
from orchestrator.state import SchedulerState, validate
from orchestrator.state.queue import WaitingRequests
from tests.unit.orchestrator.builders import GIB, demand, joined, stage, study, trials, variant


def queue_of(at: Sequence[float], demands: Sequence[Demand] = ()) -> SchedulerState:
    """One trial of one stage per time of arrival [s], in a study of its own; by default all ask for a device."""
    state = SchedulerState(max_attempts=2)
    for number, queued_at in enumerate(at):
        study_id = f"study-{number}"
        (trial,) = trials([variant(stage(f"main@{number}"))], study_id, queued_at)
        asked = demands[number] if demands else demand()
        event = StudySubmitted(
            at=queued_at,
            study=study(study_id, queued_at),
            trials=(replace(trial, queued_at=queued_at),),
            demands={trial.variant.stages[0].key: asked},
        )
        state.handle(event)
    return state


def cancel(state: SchedulerState, number: int) -> None:
    trial_id = f"study-{number}-0000"
    state.handle(HaltRequested(at=99.0, trial_ids=(trial_id,), into=TrialState.CANCELLED, reason="not needed"))


@given(at=st.lists(st.integers(0, 5).map(float), max_size=12), left=st.sets(st.integers(0, 11)))
def test_who_waits_is_in_order_of_arrival_whoever_leaves(at: list[float], left: set[int]) -> None:
    state = queue_of(at)
    for number in left & set(range(len(at))):
        cancel(state, number)
    staying = sorted((queued_at, number) for number, queued_at in enumerate(at) if number not in left)
    assert [(r.queued_at, r.study_id) for r in state.snapshot(9.0).queue] == [(q, f"study-{n}") for q, n in staying]
    validate(state)


def test_the_queue_can_be_counted_indexed_and_cut() -> None:
    queue = queue_of([0.0, 1.0, 2.0]).snapshot(9.0).queue
    assert (len(queue), queue[1].queued_at, queue[-1].queued_at) == (3, 1.0, 2.0)
    assert [request.queued_at for request in queue[1:]] == [1.0, 2.0]
    with pytest.raises(IndexError):
        queue[3]


def test_demands_that_no_node_can_meet_are_passed_over_and_counted_out() -> None:
    state = queue_of([0.0, 1.0, 2.0], [demand(devices=3), demand(), demand(devices=3)])
    state.handle(joined(2))
    possible = state.without_impossible(state.snapshot(9.0)).queue
    assert (len(possible), [request.queued_at for request in possible]) == (1, [1.0])


def test_a_node_that_joins_makes_possible_what_was_not_and_one_that_goes_takes_it_back() -> None:
    state = queue_of([0.0], [demand(devices=3)])
    state.handle(joined(2))
    assert len(state.without_impossible(state.snapshot(1.0)).queue) == 0
    state.handle(joined(4, "node-b"))
    assert len(state.without_impossible(state.snapshot(2.0)).queue) == 1
    state.handle(NodeLost(at=3.0, node_id="node-b", reason="gone"))
    assert len(state.without_impossible(state.snapshot(4.0)).queue) == 0


def test_an_impossible_demand_that_left_the_queue_is_not_counted_when_it_is_possible_for_others() -> None:
    state = queue_of([0.0, 1.0], [demand(memory_bytes=9 * GIB), demand()])
    state.handle(joined(2))
    assert len(state.without_impossible(state.snapshot(1.0)).queue) == 1
    cancel(state, 0)
    assert list(state.queue.impossible()) == []
    assert len(WaitingRequests(state.queue, state.queue.impossible())) == 1
