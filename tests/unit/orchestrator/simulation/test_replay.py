"""What a loop decided in earnest, decided again by the simulator."""

import pytest

from cluster.simulated import Script
from orchestrator.config import ConfigError
from orchestrator.events import Launch
from orchestrator.simulation.replay import replay
from tests.unit.orchestrator.rig import Rig

FIFO_BEST_FIT = ["ordering=fifo", "packing=best_fit", "preemption=never", "tenants=one"]


def of_its_own_length(launch: Launch) -> Script:
    """Every stage takes another time, which the simulator can only know from the ledger."""
    number = int(launch.stage.key.rpartition("@")[2]) if launch.stage.name == "main" else 0
    return Script(duration_s=7.0 + 5.3 * number % 11)


def rig_with(*, devices: int, share: float, trials: int) -> Rig:
    rig = Rig(of_its_own_length, devices=devices, start_at=5000.0)
    rig.submit(trials, share=share)
    rig.run()
    return rig


@pytest.mark.parametrize(("devices", "share", "trials"), [(1, 1.0, 3), (2, 1.0, 7), (3, 0.5, 12), (2, 0.25, 9)])
def test_the_simulator_takes_the_decisions_of_the_loop_in_their_order(devices: int, share: float, trials: int) -> None:
    found = replay(rig_with(devices=devices, share=share, trials=trials).store, overrides=FIFO_BEST_FIT)
    assert found.differences == ()
    assert len(found.live) == trials + 1
    assert found.makespan_error == pytest.approx(0.0, abs=0.1)


def test_studies_that_came_later_are_replayed_with_those_before_them() -> None:
    rig = Rig(of_its_own_length, devices=2)
    rig.submit(4, "study-1")
    rig.cycle_until(12.0)
    rig.submit(3, "study-2", own=False)
    rig.run("study-1", "study-2")
    found = replay(rig.store, overrides=FIFO_BEST_FIT)
    assert found.differences == ()
    assert {decision.stage for decision in found.live} == {"warmup", "main"}


def test_a_study_that_held_devices_meanwhile_is_named() -> None:
    rig = Rig(of_its_own_length, devices=2)
    rig.submit(4, "study-1")
    rig.cycle_until(12.0)
    rig.submit(3, "study-2", own=False)
    rig.run("study-1", "study-2")
    assert replay(rig.store, ["study-1"], overrides=FIFO_BEST_FIT).beside == ("study-2",)
    assert replay(rig.store, ["study-1", "study-2"], overrides=FIFO_BEST_FIT).beside == ()


def test_another_policy_takes_other_decisions() -> None:
    rig = rig_with(devices=2, share=0.5, trials=4)
    found = replay(rig.store, overrides=[*FIFO_BEST_FIT, "packing=exclusive"])
    assert found.policies["packing"] == "exclusive"
    position, live, simulated = found.differences[0]
    assert (position, live.device_ids, simulated.device_ids) == (2, ("node-a/cpu0",), ("node-a/cpu1",))
    assert found.makespan_error > 0.2


def test_a_stage_that_was_lost_on_the_way_is_one_decision_in_the_simulator() -> None:
    lost: list[str] = []

    def lost_once(launch: Launch) -> Script:
        if launch.stage.name == "main" and not lost:
            lost.append(launch.bundle_id)
            return Script(duration_s=10.0, loses="gone", ends_at=0.5)
        return Script(duration_s=10.0)

    rig = Rig(lost_once, devices=1)
    rig.submit(1)
    rig.run()
    found = replay(rig.store, overrides=FIFO_BEST_FIT)
    assert (len(found.live), len(found.simulated)) == (3, 2)
    position, live, simulated = found.differences[0]
    assert (position, live.stage, simulated) == (2, "main", None)


def test_more_than_one_run_is_refused() -> None:
    rig = rig_with(devices=1, share=1.0, trials=1)
    with pytest.raises(ConfigError, match="sweep=2 runs: a replay is one run"):
        replay(rig.store, overrides=[*FIFO_BEST_FIT, "packing=best_fit,exclusive"])
