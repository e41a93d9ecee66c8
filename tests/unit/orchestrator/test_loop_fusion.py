"""The loop with fusion: stacks form, their seats are filled at once, and who was lost in one runs alone.

In the simulated cluster a member of a stack takes as long as it would alone.
"""

from collections import Counter

import pytest

from cluster.simulated import Script
from orchestrator.events import Launch
from orchestrator.fusion import Fusion
from orchestrator.schema import Allocation, Outcome, Tenant, TrialState
from tests.unit.orchestrator.rig import CLUSTER, Rig


def stacks(rig: Rig, study_id: str = "study-1") -> Counter[str]:
    """How many runs there were in each stack, and under "" alone."""
    return Counter(line.stack_id for line in rig.store.allocations(study_id))


def mains(rig: Rig) -> list[Allocation]:
    return [line for line in rig.store.allocations("study-1") if "main" in line.stage_key]


def test_a_sweep_runs_as_one_stack_a_device() -> None:
    rig = Rig(fusion=Fusion())
    rig.submit(8, fusable=True)
    rig.run()
    assert sorted(stacks(rig).values()) == [1, 4, 4]
    assert rig.states() == [TrialState.COMPLETED] * 8


def test_each_member_holds_and_is_charged_its_part_of_the_device() -> None:
    rig = Rig(devices=1, fusion=Fusion())
    rig.submit(4, fusable=True)
    rig.run()
    assert [line.share for line in mains(rig)] == [0.25] * 4
    trials = rig.store.trials("study-1")
    # The warm-up held the device alone for ten seconds, and each of the four is charged a quarter of it.
    assert [round(trial.gpu_seconds, 6) for trial in trials] == [5.0] * 4


def test_without_fusion_each_runs_alone() -> None:
    rig = Rig()
    rig.submit(4, fusable=True)
    rig.run()
    assert stacks(rig) == {"": 5}


def test_what_is_not_fusable_runs_alone() -> None:
    rig = Rig(fusion=Fusion())
    rig.submit(4)
    rig.run()
    assert stacks(rig) == {"": 5}


@pytest.mark.parametrize(("cap", "share", "alone"), [(1.5, 0.5, 5), (0.0, 0.5, 1), (1.5, 1.0, 1)])
def test_who_shares_a_device_under_a_cap_runs_alone_and_is_measured(
    cap: float, share: float, alone: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members of stacks are not, so that nobody would heed their cap."""
    monkeypatch.setitem(CLUSTER, "max_slowdown_per_trial", cap)
    rig = Rig(devices=1, fusion=Fusion())
    rig.submit(4, share=share, fusable=True)
    rig.run()
    assert stacks(rig)[""] == alone


def quick_ones(launch: Launch) -> Script:
    """The first two of a study are done in two seconds, all others in twenty."""
    quick = launch.stage.key.endswith(("@0", "@1"))
    return Script(duration_s=2.0 if quick else 20.0, outcome=Outcome(metrics={"accuracy": 0.5}))


def test_a_seat_that_is_free_goes_at_once_to_the_next_of_its_kind() -> None:
    rig = Rig(quick_ones, devices=1, fusion=Fusion(max_width=4))
    rig.submit(6, fusable=True)
    rig.run()
    lines = sorted(mains(rig), key=lambda line: line.opened_at)
    first = {line.stack_id for line in lines[:4]}
    assert len(first) == 1
    late = lines[4:]
    assert {line.stack_id for line in late} == first
    ended = min(line.closed_at or 0.0 for line in lines)
    assert [line.opened_at for line in late] == [ended] * 2


def test_seats_are_filled_within_the_quota_only() -> None:
    tenant = Tenant(name="a", quota=0.5, borrowing_limit=0.0)
    rig = Rig(quick_ones, devices=1, fusion=Fusion(max_width=4), tenants=(tenant,))
    rig.submit(6, tenant="a", share=0.5, fusable=True)
    while not rig.loop.finished("study-1"):
        rig.cycle()
        held = rig.loop.state.usage.held("a").devices
        assert held <= 0.5 + 1e-9


def test_who_was_lost_in_a_stack_runs_alone_the_next_time() -> None:
    lost: set[str] = set()

    def script(launch: Launch) -> Script:
        first = "main" in launch.stage.key and launch.stage.key not in lost
        lost.add(launch.stage.key)
        return Script(
            duration_s=10.0, loses="its program died" if first else "", outcome=Outcome(metrics={"accuracy": 0.5})
        )

    rig = Rig(script, devices=1, fusion=Fusion())
    rig.submit(3, fusable=True)
    rig.run()
    assert rig.states() == [TrialState.COMPLETED] * 3
    assert Counter(bool(line.stack_id) for line in mains(rig)) == {True: 3, False: 3}


def too_large(launch: Launch) -> Script:
    """A main stage needs 1.5 GiB; in a stack of four it is given less."""
    needs = 3 * 2**29 if "main" in launch.stage.key else 0
    return Script(duration_s=10.0, needs_bytes=needs, outcome=Outcome(metrics={"accuracy": 0.5}))


def test_a_stack_that_takes_too_much_memory_is_narrower_the_next_time() -> None:
    rig = Rig(too_large, devices=1, fusion=Fusion(max_width=8))
    rig.submit(8, fusable=True)
    rig.run()
    assert rig.states() == [TrialState.COMPLETED] * 8
    widths = sorted(stacks(rig).values(), reverse=True)
    assert widths[0] == 8
    assert widths[1:] == [4, 4, 1]


def test_a_leader_that_takes_over_fuses_what_is_left() -> None:
    rig = Rig(devices=1, fusion=Fusion())
    rig.submit(4, fusable=True)
    rig.cycle_until(12.0)
    assert sum(line.closed_at is None for line in rig.store.allocations("study-1")) == 4
    later = Rig(devices=1, store=rig.store, start_at=13.0, fusion=Fusion())
    later.run()
    assert later.states() == [TrialState.COMPLETED] * 4
    # The warm-up's output was on the cluster that is gone.
    assert sorted(stacks(later).values()) == [2, 4, 4]
