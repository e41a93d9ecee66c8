"""A seat that was left vacant, from the loop's ledger to everybody who shows what it cost."""

import pytest

from cluster.simulated import Script
from orchestrator.control.outlook import outlook
from orchestrator.control.views import report_document, status_document
from orchestrator.events import Launch
from orchestrator.fusion import Fusion
from orchestrator.report.progress import progress_of
from orchestrator.schema import Allocation, Outcome
from orchestrator.state.demands import EACH_AS_ALONE
from orchestrator.tracking.forwarder import forward_all
from orchestrator.tracking.memory import MemoryTracker
from tests.unit.orchestrator.rig import Rig

# The warm-up of ten seconds, then the stack of four: two leave after two seconds, the others after twenty.
HELD_S, VACATED_S = 30.0, 9.0


def quick_ones(launch: Launch) -> Script:
    quick = launch.stage.key.endswith(("@0", "@1"))
    at_warmup = "main" not in launch.stage.key
    duration_s = 10.0 if at_warmup else 2.0 if quick else 20.0
    return Script(duration_s=duration_s, outcome=Outcome(metrics={"accuracy": 0.5}))


@pytest.fixture
def rig() -> Rig:
    made = Rig(quick_ones, devices=1, fusion=Fusion(refill=False))
    made.submit(4, fusable=True)
    made.run()
    return made


def test_the_report_charges_vacated_seats_to_those_who_stayed(rig: Rig) -> None:
    document = report_document(rig.store, rig.store.study("study-1"), rig.cluster.now())
    numbers = document["throughput"]
    assert numbers["gpu_hours_held"] * 3600.0 == pytest.approx(HELD_S)
    assert numbers["gpu_hours_vacated"] * 3600.0 == pytest.approx(VACATED_S)
    assert [trial["gpu_seconds_vacated"] for trial in document["trials"]] == pytest.approx([0.0, 0.0, 4.5, 4.5])
    assert sum(trial["gpu_seconds"] for trial in document["trials"]) == pytest.approx(HELD_S)
    assert {trial["stack_width"] for trial in document["trials"]} == {4}
    # The ledger stays the truth about seats.
    assert sum(line.device_seconds(0.0) for line in rig.store.allocations()) == pytest.approx(HELD_S - VACATED_S)


def test_the_live_view_and_the_status_say_what_the_report_says(rig: Rig) -> None:
    now = rig.cluster.now()
    document = report_document(rig.store, rig.store.study("study-1"), now)
    rate = document["throughput"]["experiments_per_gpu_hour"]
    assert progress_of(rig.loop.state, "study-1", now).experiments_per_gpu_hour == pytest.approx(rate)
    status = status_document(rig.store, "study-1", now)
    assert status["studies"][0]["experiments_per_gpu_hour"] == pytest.approx(rate)
    shown = [trial["gpu_seconds"] for trial in status["trials"]]
    assert shown == pytest.approx([trial["gpu_seconds"] for trial in document["trials"]])
    seen = outlook(rig.store, now, ["study-1"])
    assert [seen.gpu_seconds(trial) for trial in rig.store.trials("study-1")] == pytest.approx(shown)


def test_a_tracker_is_told_the_same_however_often_the_journal_is_read(rig: Rig) -> None:
    document = report_document(rig.store, rig.store.study("study-1"), rig.cluster.now())
    tracker = MemoryTracker()
    for _ in range(2):
        rig.store.set_forwarded(0)
        forward_all(rig.store, tracker)
    for trial in document["trials"]:
        run = tracker.runs[trial["id"]]
        for name in ("gpu_seconds", "gpu_seconds_fused"):
            assert [point.value for point in run.series[name]] == pytest.approx([trial[name]], rel=1e-6)
        assert (run.tags["stack_ids"], run.tags["stack_width"]) == (" ".join(trial["stack_ids"]), "4")


def test_members_of_a_second_stack_are_expected_to_hold_what_those_of_the_first_did() -> None:
    rig = Rig(devices=1, fusion=Fusion(max_width=4, refill=False))
    rig.submit(8, fusable=True)
    rig.run()
    stacks: dict[str, list[Allocation]] = {}
    for line in rig.store.allocations("study-1"):
        if line.stack_id:
            stacks.setdefault(line.stack_id, []).append(line)
    first, second = stacks.values()
    # The warm-up is of another algorithm in the eyes of the history: of the first stack nobody knows anything.
    assert {line.expected_s for line in first} == {None}
    assert [line.expected_s for line in second] == pytest.approx([10.0] * 4)


def test_a_leader_that_takes_over_learns_from_the_ledger_how_wide_stacks_were() -> None:
    rig = Rig(devices=1, fusion=Fusion(max_width=4, refill=False))
    rig.submit(8, fusable=True)
    rig.cycle_until(22.0)
    later = Rig(devices=1, store=rig.store, start_at=23.0, fusion=Fusion(max_width=4))
    stage = rig.store.trials("study-1")[7].variant.stages[-1]
    assert later.loop.state.durations.expected_s(stage, width=4) == pytest.approx(10.0)


def test_the_memory_of_a_member_is_held_against_what_one_takes_alone_until_a_stack_was_measured(rig: Rig) -> None:
    alone, *members = rig.store.allocations("study-1")
    assert EACH_AS_ALONE not in alone.estimated_from
    assert {line.estimated_from for line in members} == {alone.estimated_from + EACH_AS_ALONE}
    assert {line.estimated_memory_bytes for line in members} == {alone.estimated_memory_bytes}


def test_the_members_of_a_stack_that_waits_are_all_predicted_to_start_and_to_end_together() -> None:
    rig = Rig(devices=1, fusion=Fusion(max_width=4, refill=False))
    rig.submit(8, fusable=True)
    rig.run()
    predictions = rig.store.predictions("study-1")
    assert [prediction.trial_id for prediction in predictions] == [f"study-1-{n:04d}" for n in range(4, 8)]
    assert [prediction.start_at for prediction in predictions] == pytest.approx([20.0] * 4, abs=1.5)
    assert [prediction.end_at for prediction in predictions] == pytest.approx([30.0] * 4, abs=1.5)


def test_the_live_view_expects_a_stack_that_waits_to_take_as_long_as_the_one_that_runs() -> None:
    rig = Rig(devices=1, fusion=Fusion(max_width=4, refill=False))
    rig.submit(8, fusable=True)
    rig.cycle_until(16.0)
    assert progress_of(rig.loop.state, "study-1", 16.0).eta_s == pytest.approx(30.0 - 16.0, abs=1.5)
