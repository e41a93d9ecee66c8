"""What a new leader, or whoever looks, knows from the ledger of those before."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from cluster.simulated import Script
from orchestrator.events import Launch
from orchestrator.history.memory import MARGIN
from orchestrator.ports import Store
from orchestrator.recovery import restore_ledger, restore_study, view
from orchestrator.schema import Outcome, Stage, Trial, TrialState
from orchestrator.state import SchedulerState
from orchestrator.state.demands import EACH_AS_ALONE
from orchestrator.state.memory_raises import raised_bytes
from orchestrator.state.records import StageRecord
from orchestrator.store.memory import MemoryStore
from tests.unit.orchestrator.builders import GIB
from tests.unit.orchestrator.control.rigs import OVERRIDES, STEP_S, Rig, steady

PEAK_BYTES = 300 << 20


def frugal(launch: Launch) -> Script:
    """As steady as any, and less demanding than estimated."""
    script = steady(launch)
    return replace(script, outcome=replace(script.outcome, peak_memory_bytes=PEAK_BYTES))


def looking(store: Store, *study_ids: str) -> SchedulerState:
    state = SchedulerState(max_attempts=1)
    view(state, store, 1e4, study_ids)
    return state


def last_stages(trials: Sequence[Trial]) -> list[Stage]:
    return [trial.variant.stages[-1] for trial in trials]


@pytest.fixture(scope="module")
def ended() -> tuple[Store, Rig]:
    """A store with a study that is over."""
    rig = Rig(script=frugal)
    rig.finish(rig.submit())
    return rig.store, rig


def test_a_study_like_one_that_is_over_is_known_from_its_first_cycle_on(ended: tuple[Store, Rig]) -> None:
    store, _ = ended
    rig = Rig(*OVERRIDES[:-1], "algorithm.max_steps=80", store=store)
    rig.loop.take_over(rig.at)
    rig.cluster.start()
    study_id = rig.submit()
    rig.until(lambda: study_id in rig.loop.state.studies)
    stages = last_stages(rig.store.trials(study_id))
    for stage in stages:
        expected = rig.loop.state.durations.expected(stage)
        assert expected is not None
        assert expected.value == pytest.approx(80 * STEP_S, rel=0.05)
        assert (expected.basis, expected.runs) == ("stages of the same shape", 5)
    rig.finish(study_id)
    lines = [line for line in store.allocations(study_id) if line.stage_key in {stage.key for stage in stages}]
    assert {(line.estimated_memory_bytes, line.estimated_from) for line in lines} == {
        (int(PEAK_BYTES * MARGIN), f"measured{EACH_AS_ALONE}")
    }


def test_the_demands_of_what_waits_are_corrected_by_the_ledger() -> None:
    rig = Rig(script=frugal)
    study_id = rig.submit()
    rig.until(lambda: rig.completed(study_id) == 2)
    waiting = {r.demand for r in rig.loop.state.snapshot(rig.at).queue}
    assert {demand.memory_bytes for demand in waiting} == {int(PEAK_BYTES * MARGIN)}
    assert {r.demand for r in looking(rig.store).snapshot(rig.at).queue} == waiting


def test_a_new_leader_takes_peaks_and_utilisation_over() -> None:
    rig = Rig(script=frugal)
    study_id = rig.submit()
    rig.until(lambda: rig.completed(study_id) == 2)
    state = SchedulerState(max_attempts=1)
    restore_study(state, rig.store, rig.store.study(study_id), rig.store.completed_stages, rig.at)
    busy = [replace(line, utilisation=0.75) for line in rig.store.allocations()]

    class Ledger(MemoryStore):
        def allocations(self, study_id: str | None = None) -> list:
            return busy

    restore_ledger(state, Ledger(), rig.at)
    (stage, *_) = last_stages(rig.store.trials(study_id))
    peak, expected = state.memory.peak(stage, 1), state.utilisation.expected(stage)
    assert peak is not None
    assert expected is not None
    assert (peak.memory_bytes, peak.runs, expected.value) == (PEAK_BYTES, 2, 0.75)


def test_a_stage_of_a_study_that_is_over_counts_with_the_steps_that_it_took() -> None:
    def early(launch: Launch) -> Script:
        script = steady(launch)
        steps = launch.stage.budget_steps / 2
        return replace(script, outcome=Outcome(metrics={**script.outcome.metrics, "steps": steps}))

    rig = Rig(script=early)
    study_id = rig.submit()
    rig.finish(study_id)
    state = looking(rig.store)
    assert not state.studies
    expected = state.durations.expected(last_stages(rig.store.trials(study_id))[0])
    assert expected is not None
    assert expected.rate == pytest.approx(2 * STEP_S, rel=0.05)


def test_what_was_ended_for_its_memory_asks_a_new_leader_for_as_much_as_it_would_have_asked_the_old_one() -> None:
    def greedy(launch: Launch) -> Script:
        return replace(steady(launch), needs_bytes=5 << 29)  # a quarter of the device is 4 << 29

    rig = Rig(*OVERRIDES, "cluster.share_per_trial=0.25", script=greedy)
    study_id = rig.submit()
    rig.until(lambda: any(line.closed_at is not None for line in rig.store.allocations(study_id)))
    (line,) = [line for line in rig.store.allocations(study_id) if line.closed_at is not None]
    assert line.peak_memory_bytes == 5 << 29 > line.memory_bytes
    warmup = rig.store.trials(study_id)[0].variant.stages[0]
    asked = rig.loop.state.stages[warmup.key].demand.memory_bytes
    assert asked == raised_bytes(line.peak_memory_bytes, line.memory_bytes)
    assert looking(rig.store).stages[warmup.key].demand.memory_bytes == asked


def too_large_twice(launch: Launch) -> Script:
    """A quarter of a device is 2 GiB; that is too little, and so is what it is raised to at first."""
    given = launch.placement.memory_bytes
    return replace(steady(launch), needs_bytes=given + 1 if given < 4 * GIB else 0)


def until_raised(rig: Rig, times: int) -> tuple[str, StageRecord]:
    study_id = rig.submit()
    rig.until(lambda: len(rig.store.allocations(study_id)) > times)
    warmup = rig.store.trials(study_id)[0].variant.stages[0]
    return study_id, rig.loop.state.stages[warmup.key]


@pytest.mark.parametrize("stated", [(), ("cluster.memory_per_trial_gib=1",)])
def test_a_new_leader_knows_how_often_a_stage_was_raised_and_to_what(stated: tuple[str, ...]) -> None:
    rig = Rig(*OVERRIDES, "cluster.share_per_trial=0.25", *stated, script=too_large_twice)
    _, record = until_raised(rig, 2)
    assert record.raises == 2
    known = looking(rig.store).stages[record.stage.key]
    assert (known.raises, known.demand.memory_bytes) == (record.raises, record.demand.memory_bytes)


def test_a_stage_that_was_raised_to_the_largest_device_is_placed_by_a_new_leader_too() -> None:
    def large(launch: Launch) -> Script:
        return replace(steady(launch), needs_bytes=int(7.5 * GIB))

    rig = Rig(*OVERRIDES, "cluster.share_per_trial=0.25", script=large)
    study_id, record = until_raised(rig, 1)
    assert record.demand.memory_bytes == 8 * GIB
    follower = Rig(*OVERRIDES, "cluster.share_per_trial=0.25", script=large, store=rig.store)
    follower.loop.take_over(follower.at)
    follower.cluster.start()
    follower.finish(study_id)
    assert {trial.state for trial in follower.store.trials(study_id)} == {TrialState.COMPLETED}
