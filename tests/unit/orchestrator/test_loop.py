"""The scheduling loop on the simulated cluster: decisions, the order of committing and acting, leaders that change."""

from collections.abc import Sequence

import pytest

from cluster.simulated import Script
from orchestrator.events import Launch, Record, RecordAllocation
from orchestrator.loop import FORGET_AFTER_S
from orchestrator.ports import LeaseLost, StoreUnavailable
from orchestrator.recovery import view
from orchestrator.schema import CommandKind, EarlyStop, Holder, Tenant, Trial, TrialState
from orchestrator.state import SchedulerState, validate
from orchestrator.stopping import STOPPINGS, Hold, Prune, Verdict
from orchestrator.store.memory import MemoryStore
from tests.unit.orchestrator.rig import Rig, ten_seconds


def test_every_trial_of_a_study_completes_and_the_shared_stage_runs_once() -> None:
    rig = Rig()
    rig.submit(4)
    rig.run()
    assert rig.states() == [TrialState.COMPLETED] * 4
    assert [a.stage_key for a in rig.store.allocations("study-1")].count(">warmup@study-1") == 1


def test_two_devices_run_two_trials_at_a_time() -> None:
    rig = Rig()
    rig.submit(4)
    rig.run()
    # One warm-up of 10 s, then four stages of 10 s on two devices.
    assert rig.cluster.now() == pytest.approx(30.0, abs=2.0)


def test_halves_of_devices_run_four_trials_at_a_time() -> None:
    rig = Rig()
    rig.submit(4, share=0.5)
    rig.run()
    assert rig.cluster.now() == pytest.approx(20.0, abs=2.0)


def test_a_queue_too_long_for_one_cycle_is_placed_in_several_without_time_passing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orchestrator.loop.PLACED_AT_ONCE", 3)
    rig = Rig(devices=10)
    rig.submit(12)
    rig.cycle_until(12.0)  # past the warm-up
    while len(rig.loop.state.bundles) < 10:
        at = rig.cluster.now()
        rig.cycle(1.0)
        assert rig.cluster.now() == at
    assert len(rig.loop.state.queue) == 2


def test_a_change_is_committed_before_it_is_acted_upon() -> None:
    seen: list[tuple[str, str]] = []

    class WatchedStore(MemoryStore):
        def apply(self, records: Sequence[Record], *, term: int = 0, batch: int = 0) -> None:
            super().apply(records, term=term, batch=batch)
            seen.extend(("ledger", r.allocation.bundle_id) for r in records if isinstance(r, RecordAllocation))

    def script(launch: Launch) -> Script:
        seen.append(("launch", launch.bundle_id))
        return ten_seconds(launch)

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


def test_a_stopping_policy_ends_trials_as_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop_the_second(trials: Sequence[Trial]) -> Sequence[Verdict]:
        behind = [t for t in trials if t.number == 1 and t.stage_index == 1 and not t.state.terminal]
        return [Prune(t.trial_id, "behind") if t.held else Hold(t.trial_id, stop) for t in behind]

    stop = EarlyStop(policy="mine", rung=0, confidence=0.9, gpu_seconds=0.0, why="behind")
    monkeypatch.setitem(STOPPINGS, "never", lambda config: stop_the_second)  # type: ignore[arg-type]
    rig = Rig()
    rig.submit(2)
    rig.run()
    assert rig.states() == [TrialState.COMPLETED, TrialState.PRUNED]


def test_a_stopping_policy_is_asked_about_a_study_when_something_in_it_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def listening(_trials: Sequence[Trial]) -> Sequence[Verdict]:
        asked.append(rig.cluster.now())
        return ()

    monkeypatch.setitem(STOPPINGS, "never", lambda config: listening)  # type: ignore[arg-type]
    rig = Rig()
    rig.submit(1)
    rig.cycle_until(9.5)
    # When it was taken in, when its warm-up had started, and half-way, when that reports; it ends at ten seconds.
    assert [round(at) for at in asked] == [1, 1, 6]


def test_a_study_that_is_over_is_forgotten_after_a_while_and_not_before() -> None:
    rig = Rig()
    rig.submit(1)
    rig.run()
    over_at = rig.cluster.now()
    rig.cycle_until(over_at + FORGET_AFTER_S - 2.0)
    assert "study-1" in rig.loop.state.studies
    rig.cycle_until(over_at + FORGET_AFTER_S + 2.0)
    assert (rig.loop.state.studies, rig.loop.state.trials, rig.loop.state.stages) == ({}, {}, {})


def test_a_study_that_went_on_is_forgotten_after_its_second_end() -> None:
    rig = Rig(lambda launch: Script(duration_s=10.0, raises="boom" if launch.stage.name == "main" else ""))
    rig.submit(1)
    rig.run()
    rig.cycle_until(rig.cluster.now() + FORGET_AFTER_S / 2)
    rig.ask(CommandKind.RETRY, "study-1")
    rig.cycle_until(rig.cluster.now() + FORGET_AFTER_S / 2 + 5.0)
    assert rig.states() == [TrialState.FAILED]
    assert "study-1" in rig.loop.state.studies
    rig.cycle_until(rig.cluster.now() + FORGET_AFTER_S)
    assert rig.loop.state.studies == {}


def test_the_ledger_of_the_store_is_closed_and_equals_what_trials_were_charged() -> None:
    rig = Rig()
    rig.submit(3)
    rig.run()
    lines = rig.store.allocations("study-1")
    assert all(line.closed_at is not None for line in lines)
    charged = sum(t.gpu_seconds for t in rig.store.trials("study-1"))
    assert sum(line.device_seconds(0.0) for line in lines) == pytest.approx(charged)


def test_a_study_that_is_over_is_closed_with_its_numbers_in_the_journal() -> None:
    rig = Rig()
    rig.submit(2)
    rig.run()
    assert rig.store.study("study-1").ended_at == pytest.approx(rig.cluster.now(), abs=2.0)
    assert rig.track().runs["study-1"].metrics == {"trials": 2.0}


def test_the_tracker_hears_of_states_and_series() -> None:
    rig = Rig()
    rig.submit(1)
    rig.run()
    run = rig.track().runs["study-1-0000"]
    assert run.ended_at == rig.store.trials("study-1")[0].ended_at
    assert {"train/loss", "warmup/train/loss"} <= set(run.series)


def test_two_studies_are_served_by_one_loop() -> None:
    rig = Rig()
    rig.submit(2, "study-1")
    rig.submit(2, "study-2")
    rig.run("study-1", "study-2")
    assert rig.states("study-1") + rig.states("study-2") == [TrialState.COMPLETED] * 4


def test_a_trial_that_fits_no_node_holds_nobody_up() -> None:
    rig = Rig()
    rig.submit(1, "too-large", memory_gib=100.0)
    rig.submit(2, "study-1")
    rig.run("study-1")
    assert rig.states("study-1") == [TrialState.COMPLETED] * 2
    assert rig.states("too-large") == [TrialState.QUEUED]


def test_a_report_that_can_not_be_written_is_written_later(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    finish, full = rig.loop._finish, [True]

    def write(*arguments: object) -> object:
        if full[0]:
            raise OSError(28, "No space left on device")
        return finish(*arguments)  # type: ignore[arg-type]

    rig.loop._finish = write  # type: ignore[assignment]
    rig.submit(1)
    rig.cycle_until(40.0)
    assert rig.states() == [TrialState.COMPLETED]
    assert rig.store.study("study-1").ended_at is None
    assert caplog.text.count("its report can't be written yet") == 1
    full[0] = False
    rig.run()


def test_a_trial_whose_earlier_output_vanished_while_it_was_paused_makes_it_again() -> None:
    rig = Rig()
    rig.submit(1)
    rig.cycle_until(13.0)
    rig.ask(CommandKind.PAUSE, "study-1")
    rig.cycle_until(16.0)
    assert rig.states() == [TrialState.PAUSED]
    rig.cluster.damage_output(">warmup@study-1")
    rig = Rig(store=rig.store, cluster=rig.cluster)
    rig.ask(CommandKind.RESUME, "study-1")
    rig.run()
    assert [a.stage_key for a in rig.store.allocations()].count(">warmup@study-1") == 2


def test_a_trial_that_ran_when_its_leader_died_makes_a_vanished_output_again() -> None:
    dead = Rig()
    dead.submit(1)
    dead.cycle_until(13.0)
    dead.cluster.damage_output(">warmup@study-1")
    rig = successor(dead)
    rig.run()
    assert rig.states() == [TrialState.COMPLETED]
    assert [a.stage_key for a in rig.store.allocations()].count(">warmup@study-1") == 2


# --- leaders that change ---------------------------------------------------------------------------------------------


def killed(after_s: float, script: object = ten_seconds) -> Rig:
    """A rig whose process is killed `after_s` into a study of three trials."""
    rig = Rig(script)  # type: ignore[arg-type]
    rig.submit(3)
    rig.cycle_until(after_s)
    assert TrialState.RUNNING in rig.states()
    return rig


def successor(rig: Rig) -> Rig:
    """Whoever leads next, on a cluster that has the same outputs and checkpoints, with its bundles dead."""
    rig.cluster.close()
    return Rig(store=rig.store, cluster=rig.cluster)


def test_what_a_killed_leader_left_is_finished_by_the_next() -> None:
    rig = successor(killed(after_s=25.0))
    rig.run()
    assert rig.states() == [TrialState.COMPLETED] * 3


def test_the_ledger_ends_when_the_killed_leader_gave_its_last_sign_of_life() -> None:
    dead = killed(after_s=25.0)
    beat_at = dead.store.lease().beat_at
    running = {a.bundle_id for a in dead.store.allocations() if a.closed_at is None}
    rig = successor(dead)
    closed = {a.bundle_id: a.closed_at for a in rig.store.allocations()}
    assert running
    assert all(closed[bundle_id] == max(beat_at, 0.0) for bundle_id in running)


def test_what_was_decided_stays_as_it_was() -> None:
    dead = killed(after_s=25.0)
    completed = [t for t in dead.store.trials("study-1") if t.state is TrialState.COMPLETED]
    assert completed
    rig = successor(dead)
    rig.run()
    assert [t for t in rig.store.trials("study-1") if t.trial_id in {c.trial_id for c in completed}] == completed


def test_a_leader_whose_term_is_over_neither_writes_nor_launches() -> None:
    launched: list[str] = []

    def script(launch: Launch) -> Script:
        launched.append(launch.bundle_id)
        return ten_seconds(launch)

    rig = Rig(script)
    rig.submit(3)
    rig.cycle_until(2.0)
    before = (list(launched), rig.store.trials("study-1"), rig.store.allocations())
    rig.store.take_lease(rig.store.lease(), Holder(host="there", pid=2, started_at=0.0), {}, rig.cluster.now())
    with pytest.raises(LeaseLost):
        rig.cycle_until(30.0)
    assert (launched, rig.store.trials("study-1"), rig.store.allocations()) == before


def test_everybody_can_see_in_the_store_what_the_leader_sees() -> None:
    rig = Rig()
    rig.submit(3)
    rig.cycle_until(14.0)
    seen = SchedulerState(max_attempts=2)
    view(seen, rig.store, rig.cluster.now())
    validate(seen)
    assert seen.trials == rig.loop.state.trials
    assert seen.room.free() == rig.loop.state.room.free()
    assert [r.stage_key for r in seen.snapshot(14.0).queue] == [
        r.stage_key for r in rig.loop.state.snapshot(14.0).queue
    ]


def test_a_service_that_ends_lets_running_bundles_checkpoint() -> None:
    rig = killed(after_s=13.0)
    rig.loop.suspend(30.0, "the service ends")
    assert TrialState.RUNNING not in rig.states()
    rig = Rig(store=rig.store, cluster=rig.cluster)
    started = rig.cluster.now()
    rig.run()
    # Three of the ten seconds of two of the three last stages were done before.
    assert rig.cluster.now() - started < 20.0


# --- a store that is away --------------------------------------------------------------------------------------------


def test_the_loop_waits_for_a_store_that_is_away_and_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class AwayStore(MemoryStore):
        away = 0

        def apply(self, records: Sequence[Record], *, term: int = 0, batch: int = 0) -> None:
            if self.away:
                self.away -= 1
                raise StoreUnavailable("database is locked")
            super().apply(records, term=term, batch=batch)

    store = AwayStore()
    rig = Rig(store=store)
    rig.loop._pause = rig.cluster.poll  # type: ignore[assignment]  # virtual time passes while it waits
    rig.submit(2)
    rig.cycle_until(5.0)
    store.away = 7
    rig.run()
    assert rig.states() == [TrialState.COMPLETED] * 2
    assert "store: database is locked; waiting for it, training goes on" in caplog.text
    assert "store: there again" in caplog.text


# --- sharing ---------------------------------------------------------------------------------------------------------


def test_a_higher_priority_makes_room_for_itself_and_the_victim_goes_on_where_it_was() -> None:
    rig = Rig(
        devices=1, ordering={"name": "priority", "max_wait_s": 1e6}, tenants=[Tenant(name="default", max_priority=9)]
    )
    rig.submit(1, "low")
    rig.cycle_until(17.0)  # 10 s of warm-up, 7 s into its last stage
    rig.submit(1, "high", priority=5)
    rig.run("low", "high")
    low, high = rig.store.trials("low")[0], rig.store.trials("high")[0]
    assert high.ended_at is not None and low.ended_at is not None  # noqa: PT018
    assert high.ended_at < low.ended_at
    assert low.preemptions == 1


def test_a_priority_above_the_tenants_highest_is_lowered_and_said() -> None:
    rig = Rig(tenants=[Tenant(name="default", max_priority=2)])
    command_id = rig.submit(1, priority=7)
    rig.cycle()
    assert rig.store.study("study-1").priority == 2
    assert "set to 2" in rig.store.command(command_id).answer


def test_a_study_of_an_unknown_tenant_is_cancelled_with_the_reason() -> None:
    rig = Rig(tenants=[Tenant(name="lab")])
    command_id = rig.submit(2, tenant="nobody")
    rig.run()
    assert rig.states() == [TrialState.CANCELLED] * 2
    answered = rig.store.command(command_id)
    assert (answered.ok, answered.answer) == (False, "study.tenant=nobody: no such tenant; there is: lab")


def test_a_quota_is_given_back_to_whoever_claims_it() -> None:
    tenants = [Tenant(name="a", quota=1.0, borrowing_limit=1.0), Tenant(name="b", quota=1.0, borrowing_limit=1.0)]
    rig = Rig(tenants=tenants)
    rig.submit(4, "of-a", tenant="a")
    rig.cycle_until(15.0)
    assert rig.loop.state.usage.held("a").devices == 2.0
    rig.submit(1, "of-b", tenant="b")
    rig.cycle_until(18.0)
    assert rig.loop.state.usage.held("b").devices == 1.0
    rig.run("of-a", "of-b")
    assert set(rig.states("of-a") + rig.states("of-b")) == {TrialState.COMPLETED}


def test_a_study_takes_over_a_prefix_that_another_ran_and_runs_its_last_stages_itself() -> None:
    rig = Rig()
    rig.submit(1, "study-1", own=False)
    rig.run("study-1")
    rig.submit(1, "study-2", own=False)
    rig.run("study-2")
    assert [a.stage_key for a in rig.store.allocations("study-1")] == [">warmup@shared", ">warmup@shared>main@0"]
    assert [a.stage_key for a in rig.store.allocations("study-2")] == [">warmup@shared>main@0"]
