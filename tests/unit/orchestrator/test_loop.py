"""The scheduling loop on the simulated cluster: decisions, the order of committing and acting, and resumption."""

from collections.abc import Sequence

import pytest

from cluster.simulated import Script, SimulatedCluster
from orchestrator.events import Launch, Record, RecordAllocation
from orchestrator.loop import SchedulingLoop
from orchestrator.ordering import fifo
from orchestrator.packing import best_fit
from orchestrator.schema import Outcome, Trial, TrialState
from orchestrator.stopping import StoppingPolicy, never
from orchestrator.store.memory import MemoryStore
from orchestrator.tracking.memory import MemoryTracker
from tests.unit.orchestrator.builders import device, submitted


def outcome_of(launch: Launch) -> Script:
    return Script(
        duration_s=10.0,
        reports={5: {"train/loss": 1.0}},
        outcome=Outcome(metrics={"accuracy": 0.5}),
    )


class Rig:
    """A loop on two simulated devices, with what it was built from."""

    def __init__(
        self,
        script: object = outcome_of,
        stopping: StoppingPolicy = never,
        store: MemoryStore | None = None,
    ) -> None:
        self.cluster = SimulatedCluster(devices=[device(0), device(1)], script=script)  # type: ignore[arg-type]
        self.store = store or MemoryStore()
        self.tracker = MemoryTracker()
        self.loop = SchedulingLoop(
            cluster=self.cluster,
            store=self.store,
            tracker=self.tracker,
            clock=self.cluster,
            ordering=fifo,
            packing=best_fit,
            stopping=stopping,
            max_attempts=2,
        )
        self.cluster.start()
        self.loop.wait_for_devices(1.0)

    def submit(self, count: int, share: float = 1.0) -> None:
        event = submitted(count, share)
        self.loop.submit(event.study, [t.variant for t in event.trials], event.demands, reuse=True)

    def run(self) -> None:
        self.loop.run("study-1", self.loop.state.validate)

    def states(self) -> list[TrialState]:
        return [t.state for t in self.store.trials("study-1")]


def test_every_trial_of_a_study_completes_and_the_shared_stage_runs_once() -> None:
    rig = Rig()
    rig.submit(4)
    rig.run()
    assert rig.states() == [TrialState.COMPLETED] * 4
    assert [a.stage_key for a in rig.store.allocations("study-1")].count(">warmup") == 1


def test_two_devices_run_two_trials_at_a_time() -> None:
    rig = Rig()
    rig.submit(4)
    rig.run()
    # One warm-up of 10 s, then four stages of 10 s on two devices.
    assert rig.cluster.now() == pytest.approx(30.0, abs=0.5)


def test_halves_of_devices_run_four_trials_at_a_time() -> None:
    rig = Rig()
    rig.submit(4, share=0.5)
    rig.run()
    assert rig.cluster.now() == pytest.approx(20.0, abs=0.5)


def test_a_change_is_committed_before_it_is_acted_upon() -> None:
    seen: list[tuple[str, str]] = []

    class WatchedStore(MemoryStore):
        def apply(self, records: Sequence[Record]) -> None:
            super().apply(records)
            seen.extend(("ledger", r.allocation.bundle_id) for r in records if isinstance(r, RecordAllocation))

    def script(launch: Launch) -> Script:
        seen.append(("launch", launch.bundle_id))
        return outcome_of(launch)

    rig = Rig(script, store=WatchedStore())
    rig.submit(2)
    rig.run()
    launches = [bundle for kind, bundle in seen if kind == "launch"]
    assert len(launches) == 3
    for bundle in launches:
        assert seen.index(("ledger", bundle)) < seen.index(("launch", bundle))


def test_a_worker_that_is_lost_once_costs_an_attempt_and_not_the_trial() -> None:
    def script(launch: Launch) -> Script:
        lost = "killed" if launch.stage.name == "main" and launch.attempt == 0 else ""
        return Script(duration_s=10.0, loses=lost, ends_at=0.5 if lost else 1.0)

    rig = Rig(script)
    rig.submit(1)
    rig.run()
    assert rig.states() == [TrialState.COMPLETED]
    assert rig.store.trials("study-1")[0].attempt == 3


def test_a_trial_that_raises_fails_alone() -> None:
    def script(launch: Launch) -> Script:
        return Script(duration_s=10.0, raises="boom" if launch.stage.key.endswith("main@1") else "")

    rig = Rig(script)
    rig.submit(3)
    rig.run()
    assert rig.states() == [TrialState.COMPLETED, TrialState.FAILED, TrialState.COMPLETED]


def test_a_stopping_policy_ends_trials_as_pruned() -> None:
    def stop_the_second(trials: Sequence[Trial]) -> Sequence[str]:
        return [t.trial_id for t in trials if t.number == 1 and t.stage_index == 1 and not t.state.terminal]

    rig = Rig(stopping=stop_the_second)
    rig.submit(2)
    rig.run()
    assert rig.states() == [TrialState.COMPLETED, TrialState.PRUNED]


def test_the_ledger_of_the_store_is_closed_and_equals_what_trials_were_charged() -> None:
    rig = Rig()
    rig.submit(3)
    rig.run()
    lines = rig.store.allocations("study-1")
    assert all(line.closed_at is not None for line in lines)
    charged = sum(t.gpu_seconds for t in rig.store.trials("study-1"))
    assert sum(line.device_seconds(0.0) for line in lines) == pytest.approx(charged)


def test_ending_a_study_cancels_what_is_not_over() -> None:
    rig = Rig()
    rig.submit(3)
    rig.loop.cycle(1.0)
    rig.loop.end_study("study-1", "interrupted", grace_s=30.0)
    assert rig.states() == [TrialState.CANCELLED] * 3
    assert all(line.closed_at is not None for line in rig.store.allocations("study-1"))


def interrupted_store(after_s: float) -> MemoryStore:
    """What a process leaves behind that is killed `after_s` into a study of three trials."""
    rig = Rig()
    rig.submit(3)
    while rig.cluster.now() < after_s:
        rig.loop.cycle(1.0)
    return rig.store


def resumed(store: MemoryStore, ended_at: float) -> Rig:
    rig = Rig(store=store)
    event = submitted(3)
    rig.loop.resume(store.study("study-1"), store.trials("study-1"), event.demands, ended_at)
    return rig


def test_a_killed_study_is_resumed_and_every_trial_completes() -> None:
    store = interrupted_store(after_s=25.0)
    assert TrialState.RUNNING in [t.state for t in store.trials("study-1")]
    rig = resumed(store, ended_at=25.0)
    rig.run()
    assert rig.states() == [TrialState.COMPLETED] * 3


def test_a_resumed_study_keeps_its_ledger_and_closes_what_the_dead_process_held() -> None:
    store = interrupted_store(after_s=25.0)
    held_before = sum(line.device_seconds(25.0) for line in store.allocations("study-1"))
    rig = resumed(store, ended_at=25.0)
    rig.loop.state.validate()
    assert sum(line.device_seconds(25.0) for line in store.allocations("study-1")) == pytest.approx(held_before)
    assert all(line.closed_at is not None for line in store.allocations("study-1"))


def test_a_resumed_study_keeps_what_was_decided() -> None:
    store = interrupted_store(after_s=25.0)
    completed = [t for t in store.trials("study-1") if t.state is TrialState.COMPLETED]
    assert completed
    rig = resumed(store, ended_at=25.0)
    rig.run()
    assert [t for t in store.trials("study-1") if t.trial_id in {c.trial_id for c in completed}] == completed


def test_the_tracker_of_a_resumed_study_hears_again_what_was_decided() -> None:
    store = interrupted_store(after_s=25.0)
    completed = [t for t in store.trials("study-1") if t.state is TrialState.COMPLETED]
    rig = resumed(store, ended_at=25.0)
    assert completed
    assert all(rig.tracker.runs[t.trial_id].ended_at == t.ended_at for t in completed)


def test_a_study_is_not_over_in_the_store_before_it_is_closed() -> None:
    rig = Rig()
    rig.submit(1)
    rig.run()
    assert rig.store.study("study-1").ended_at is None
    rig.loop.close_study("study-1", ended_at=99.0)
    assert rig.store.study("study-1").ended_at == 99.0


def test_the_tracker_hears_of_states_and_series() -> None:
    rig = Rig()
    rig.submit(1)
    rig.run()
    run = rig.tracker.runs["study-1-0000"]
    assert run.ended_at == rig.store.trials("study-1")[0].ended_at
    assert {"train/loss", "warmup/train/loss"} <= set(run.series)
