"""Every invariant of the event machine, checked at the end of every test that drives it."""

from collections import Counter

import numpy as np

from orchestrator.schema import StageState, TrialState
from orchestrator.state import neighbours
from orchestrator.state.machine import SchedulerState
from orchestrator.state.records import StageRecord

_EPSILON = 1e-6


def validate(state: SchedulerState) -> None:
    """Raise AssertionError if an invariant of the docstring of `machine` does not hold."""
    for free in state.room.free():
        assert free.free_share >= -_EPSILON, f"{free.device.device_id} holds more than its share"
        assert free.free_memory_bytes >= 0, f"{free.device.device_id} holds more than its memory"
        sitting = [b for b in state.bundles.values() if free.device.device_id in b.launch.placement.device_ids]
        assert len(sitting) == free.residents, f"{free.device.device_id} and the bundles on it"
    _validate_room(state)
    _validate_stacks(state)
    running = {bundle.launch.stage.key: bundle_id for bundle_id, bundle in state.bundles.items()}
    assert len(running) == len(state.bundles), "a stage runs in two bundles"
    for key, record in state.stages.items():
        assert (record.state is StageState.RUNNING) == (key in running), f"stage {record.stage.name} and its bundle"
        assert record.state is not StageState.RUNNING or record.bundle_id == running[key], "another bundle runs it"
        assert record.state in (StageState.RUNNING, StageState.ABSENT) or not record.waiters
    assert all(b.allocation.closed_at is None for b in state.bundles.values()), "a bundle's ledger line is closed"
    for study_id in state.studies:
        ours = [line.bundle_id for line in state.ledger.concerning(study_id)]
        assert len(set(ours)) == len(ours), "a ledger line was closed twice"
    _validate_queue(state)
    _validate_trials(state)
    # Of a line that is shared with a study that was forgotten, the part of those that are known.
    held = sum(
        a.device_seconds(0.0) * sum(t in state.trials for t in a.trial_ids) / len(a.trial_ids) for a in state.ledger
    )
    charged = sum(t.gpu_seconds for t in state.trials.values())
    assert abs(held - charged) <= _EPSILON * max(1.0, held), f"ledger {held} s, charged {charged} s"


def _validate_room(state: SchedulerState) -> None:
    """The room that lives on is the one that somebody would make now of the nodes and the bundles."""
    room, anew = state.room.now(), state.room.empty()
    sitting = [(b.launch.placement, b.request.demand.kind) for b in state.bundles.values()]
    for placement, kind in sitting:
        anew.take(placement, kind)
    for name in ("share", "memory_bytes", "residents", "sizes", "milli_cpus", "host_memory_bytes"):
        assert np.array_equal(getattr(room, name), getattr(anew, name)), f"{name} is not what the bundles leave"
    for kind in {kind for _, kind in sitting if kind}:
        sits, ought_to = ((made.kinds & made.kind_bit(kind)) != 0 for made in (room, anew))
        assert np.array_equal(sits, ought_to), f"{kind} doesn't sit where the bundles do"
    assert not np.any(room.kinds[room.residents == 0]), "a kind of work sits where nobody does"
    assert np.all(room.milli_cpus >= 0), "a node gives more cores than it has"
    assert np.all(room.host_memory_bytes >= 0), "a node gives more memory than it has"
    assert {k: set(v) for k, v in room.conflicts.items()} == {
        k: set(v) for k, v in neighbours.conflicts(state).items()
    }, "the bars that hold are not those that policies see"


def _validate_stacks(state: SchedulerState) -> None:
    """A stack is its bundles: of one key and one tenant, on one device, and none of them elsewhere."""
    seats = {b.launch.bundle_id: b for b in state.bundles.values() if b.launch.placement.stack_id}
    for stack in state.stacks.all():
        members = [seats.pop(bundle_id) for bundle_id in stack.members]
        assert {b.launch.placement.stack_id for b in members} == {stack.stack_id}, "a seat in another stack"
        assert {b.launch.placement.device_ids for b in members} == {stack.seat.device_ids}, "a stack on two devices"
        assert {b.request.fusion_key for b in members} == {stack.fusion_key}, "a stack of different stages"
        assert {b.request.tenant for b in members} == {stack.tenant}, "a stack of two tenants"
    assert not seats, "a seat in a stack that is gone"


def _validate_queue(state: SchedulerState) -> None:
    requests = state.snapshot(0.0).queue
    waiting = {key for key, r in state.stages.items() if r.state is StageState.ABSENT and r.waiters}
    assert {request.stage_key for request in requests} == waiting, "the queue is not what waits"
    for request in requests:
        assert request.trial_ids == tuple(state.stages[request.stage_key].waiters), "a request is out of date"
    places = [record.place for record in state.queue.records() if record.place is not None]
    assert len(places) == len(waiting) and places == sorted(places), "the queue is out of order"  # noqa: PT018
    assert state.queue.demands == Counter(request.demand for request in requests), "what the queue asks for"


def _validate_trials(state: SchedulerState) -> None:
    needed = Counter(stage.key for trial in state.trials.values() for stage in trial.variant.stages)
    assert all(record.needed == needed[key] for key, record in state.stages.items()), "who needs a stage"
    waits = [(trial_id, record) for record in state.stages.values() for trial_id in record.waiters]
    by_trial: dict[str, StageRecord] = dict(waits)
    assert len(by_trial) == len(waits), "a trial waits for two stages"
    for trial in state.trials.values():
        if trial.state not in (TrialState.QUEUED, TrialState.RUNNING):
            assert trial.trial_id not in by_trial, f"trial {trial.number} is {trial.state} and waits"
            assert trial.trial_id not in state.leaving
            continue
        record = by_trial[trial.trial_id]
        assert record.stage.key == trial.variant.stages[trial.stage_index].key, "a trial waits for another stage"
        leads = record.state is StageState.RUNNING and record.waiters[0] == trial.trial_id
        assert (trial.state is TrialState.RUNNING) == leads, f"trial {trial.number} is {trial.state}, leads: {leads}"
    drawn = {t.trial_id for t in state.trials.values() if t.held and t.stopped is not None and t.stopped.drawn}
    assert set(state.drawn) == drawn, "who is held and drawn to be finished"
    for study_id, counts in state.counts.items():
        states = [state.trials[trial_id].state for trial_id in state.study_trial_ids[study_id]]
        assert all(counts[s] == states.count(s) for s in TrialState), f"study {study_id}: counts"
