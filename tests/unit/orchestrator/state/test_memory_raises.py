"""A bundle that took more memory than it was given: raised, requeued, learned from, and in the end refused."""

from dataclasses import replace

import pytest

from orchestrator.events import (
    HaltRequested,
    MemoryExceeded,
    NodeJoined,
    PlacementsDecided,
    PreemptionDecided,
    RecordTrial,
    StageMeasured,
    StageSaved,
    StudyForgotten,
)
from orchestrator.packing import BestFit
from orchestrator.schema import DeviceKind, TrialState
from orchestrator.state import SchedulerState
from orchestrator.state.memory_raises import OVER_LIMIT, OVER_USED
from tests.unit.orchestrator.builders import GIB, device, submitted
from tests.unit.orchestrator.state.test_machine import Machine, complete

FIRST = "study-1-0000"


def submit(machine: SchedulerState, trials: int = 1, *, share: float = 0.25, stated_gib: float = 0.0) -> None:
    event = submitted(trials, share=share)
    config = {"cluster": {"memory_per_trial_gib": stated_gib}}
    machine.handle(replace(event, study=replace(event.study, config=config)))


def exceed(machine: Machine, bundle_id: str, used_gib: float, at: float = 5.0, *, on_host: bool = False) -> list:
    placement = machine.bundles[bundle_id].launch.placement
    limit = placement.host_memory_bytes if on_host else placement.memory_bytes
    used = int(used_gib * GIB)
    event = MemoryExceeded(at=at, bundle_id=bundle_id, used_bytes=used, limit_bytes=limit, on_host=on_host)
    return machine.handle(event)


def demanded_gib(machine: SchedulerState) -> list[float]:
    return [request.demand.memory_bytes / GIB for request in machine.snapshot(9.0).queue]


def test_it_waits_again_for_more_and_no_attempt_is_lost(machine: Machine) -> None:
    submit(machine)
    (launch,) = machine.pack(at=1.0)
    assert launch.placement.memory_bytes == 2 * GIB  # a quarter of the device
    exceed(machine, "0", used_gib=2.5)
    assert machine.states() == [TrialState.QUEUED]
    assert demanded_gib(machine) == [max(OVER_USED * 2.5, OVER_LIMIT * 2.0)]
    record = machine.stages[launch.stage.key]
    assert (record.raises, record.lost) == (1, 0)


def test_what_was_seen_counts_if_it_is_more_than_the_limit_half_as_much_again(machine: Machine) -> None:
    submit(machine)
    machine.pack(at=1.0)
    exceed(machine, "0", used_gib=6.0)
    assert demanded_gib(machine) == [pytest.approx(OVER_USED * 6.0)]


def test_it_never_asks_for_more_than_the_largest_device_has(machine: Machine) -> None:
    submit(machine)
    machine.pack(at=1.0)
    exceed(machine, "0", used_gib=7.9)
    assert demanded_gib(machine) == [8.0]
    (launch,) = machine.pack(at=6.0)
    assert launch.placement.memory_bytes == 8 * GIB


def test_it_goes_on_from_its_checkpoint_at_its_old_place(machine: Machine) -> None:
    submit(machine, trials=2)
    (launch,) = machine.pack(at=1.0)
    before = machine.stages[launch.stage.key].queued_at
    machine.handle(StageSaved(at=4.0, bundle_id="0", step=5))
    exceed(machine, "0", used_gib=2.5)
    record = machine.stages[launch.stage.key]
    assert record.progress == 0.5
    assert record.queued_at == before


def test_the_journal_says_what_it_took_and_what_it_waits_for(machine: Machine) -> None:
    submit(machine)
    machine.pack(at=1.0)
    why = [i.why for i in exceed(machine, "0", used_gib=2.5) if isinstance(i, RecordTrial) and i.why]
    assert why == ["it took 2.50 GiB of device memory at its limit of 2.00: it waits for 3.00 (raise 1 of 3)"]


def test_a_stated_memory_is_raised_too_and_said_to_be_too_little(machine: Machine) -> None:
    submit(machine, stated_gib=1.0)
    machine.pack(at=1.0)
    why = [i.why for i in exceed(machine, "0", used_gib=2.5) if isinstance(i, RecordTrial) and i.why]
    assert why[0].endswith("(raise 1 of 3); cluster.memory_per_trial_gib=1 is not enough")
    assert machine.states() == [TrialState.QUEUED]


def test_what_has_the_same_shape_and_waits_learns_from_it(machine: Machine) -> None:
    submit(machine, trials=3, share=0.5)
    machine.pack(at=1.0)
    complete(machine, "0", at=2.0)
    snapshot = machine.snapshot(2.0)
    first = tuple(BestFit()(snapshot, snapshot.queue))[:1]
    machine.handle(PlacementsDecided(at=2.0, placements=first, bundle_ids=("first",)))
    assert demanded_gib(machine) == [1.0, 1.0]
    exceed(machine, "first", used_gib=4.5)
    assert demanded_gib(machine) == [6.0, 6.0, 6.0]
    assert sorted(record.raises for record in machine.stages.values()) == [0, 0, 0, 1]


def test_the_line_of_the_ledger_shows_the_peak_beyond_what_was_given(machine: Machine) -> None:
    submit(machine)
    machine.pack(at=1.0)
    exceed(machine, "0", used_gib=2.5)
    (line,) = machine.allocations("study-1")
    assert line.peak_memory_bytes == int(2.5 * GIB) > line.memory_bytes


def test_after_its_raises_it_fails_and_says_what_it_would_need(machine: Machine) -> None:
    machine.max_memory_raises = 1
    submit(machine)
    machine.pack(at=1.0)
    exceed(machine, "0", used_gib=2.5)
    machine.pack(at=6.0)
    exceed(machine, "1", used_gib=3.5, at=7.0)
    assert machine.states() == [TrialState.FAILED]
    assert machine.trials[FIRST].error == (
        "it took 3.50 GiB of device memory at its limit of 3.00, raised 1 times (cluster.max_memory_raises=1); it "
        "needs about 4.20 GiB: cluster.memory_per_trial_gib=4.2, a smaller batch or model, deepspeed=bf16, or ZeRO "
        "over more devices (deepspeed=zero3 cluster.devices_per_trial=2)"
    )


def test_what_no_device_has_fails_at_once(machine: Machine) -> None:
    submit(machine)
    machine.pack(at=1.0)
    exceed(machine, "0", used_gib=9.0)
    assert machine.states() == [TrialState.FAILED]
    error = machine.trials[FIRST].error
    assert "no device that will do here has more than 8.00; it needs about 10.80 GiB" in error


def test_one_that_had_the_whole_largest_device_fails_at_once(machine: Machine) -> None:
    submit(machine, share=1.0)
    machine.pack(at=1.0)
    exceed(machine, "0", used_gib=8.0)
    assert machine.states() == [TrialState.FAILED]


def test_a_larger_device_that_is_there_is_gone_to(machine: Machine) -> None:
    large = device(0, "node-b", memory_bytes=32 * GIB)
    submit(machine, share=1.0)
    machine.pack(at=1.0)
    machine.handle(NodeJoined(at=2.0, node_id="node-b", devices=(large,)))
    exceed(machine, "0", used_gib=9.0)
    (launch,) = machine.pack(at=6.0)
    assert launch.placement.device_ids == (large.device_id,)


def test_raised_memory_of_a_core_is_memory_of_its_host(machine: Machine) -> None:
    submit(machine)
    machine.pack(at=1.0)
    exceed(machine, "0", used_gib=4.0)
    (request,) = machine.snapshot(9.0).queue
    assert request.demand.host_memory_bytes / GIB == pytest.approx(OVER_USED * 4.0 - 1.0)


def gpu_machine(host_gib: int) -> Machine:
    machine = Machine()
    gpu = replace(device(0), kind=DeviceKind.CUDA)
    host_memory_bytes = host_gib * GIB
    machine.handle(NodeJoined(at=0.0, node_id="node-a", devices=(gpu,), cpus=8.0, host_memory_bytes=host_memory_bytes))
    event = submitted(1, share=0.25)
    demands = {key: replace(demand, host_memory_bytes=2 * GIB) for key, demand in event.demands.items()}
    machine.handle(replace(event, demands=demands))
    machine.pack(at=1.0)
    return machine


def test_host_memory_beside_a_gpu_is_raised_by_itself() -> None:
    machine = gpu_machine(host_gib=16)
    exceed(machine, "0", used_gib=3.0, on_host=True)
    (request,) = machine.snapshot(9.0).queue
    assert request.demand.host_memory_bytes / GIB == pytest.approx(OVER_USED * 3.0)
    assert request.demand.memory_bytes == GIB


def test_host_memory_that_no_node_has_fails_with_what_would_do() -> None:
    machine = gpu_machine(host_gib=4)
    exceed(machine, "0", used_gib=5.0, on_host=True)
    assert machine.states() == [TrialState.FAILED]
    assert "of host memory" in machine.trials[FIRST].error
    assert "no node here has more than 4.00" in machine.trials[FIRST].error


@pytest.mark.parametrize("used_gib", [2.5, 9.0])  # which more memory would help, and which no device has
def test_a_trial_that_was_told_to_leave_leaves(machine: Machine, used_gib: float) -> None:
    submit(machine)
    machine.pack(at=1.0)
    machine.handle(HaltRequested(at=2.0, trial_ids=(FIRST,), into=TrialState.PAUSED, reason="asked"))
    exceed(machine, "0", used_gib=used_gib)
    assert machine.states() == [TrialState.PAUSED]


def test_a_measure_that_comes_after_the_end_changes_nothing(machine: Machine) -> None:
    submit(machine)
    machine.pack(at=1.0)
    exceed(machine, "0", used_gib=2.5)
    late = StageMeasured(at=6.0, bundle_id="0", memory_bytes=7 * GIB, host_memory_bytes=7 * GIB, utilisation=0.5)
    assert machine.handle(late) == []
    assert demanded_gib(machine) == [3.0]


def test_one_that_makes_room_and_takes_too_much_meanwhile_is_raised_and_not_charged_a_preemption(
    machine: Machine,
) -> None:
    submit(machine)
    machine.pack(at=1.0)
    machine.handle(PreemptionDecided(at=2.0, bundle_ids=("0",), reason="room"))
    exceed(machine, "0", used_gib=2.5)
    assert machine.trials[FIRST].preemptions == 0
    assert demanded_gib(machine) == [3.0]


def test_a_run_that_outlived_the_study_it_began_for_is_raised_all_the_same(machine: Machine) -> None:
    submit(machine)
    machine.pack(at=1.0)
    machine.handle(submitted(1, share=0.25, study_id="study-2"))
    machine.handle(HaltRequested(at=2.0, trial_ids=(FIRST,), into=TrialState.CANCELLED, reason="by a person"))
    machine.studies["study-1"] = replace(machine.studies["study-1"], ended_at=3.0)
    machine.handle(StudyForgotten(at=4.0, study_id="study-1"))
    assert "study-1" not in machine.studies
    exceed(machine, "0", used_gib=2.5)
    assert demanded_gib(machine) == [max(OVER_USED * 2.5, OVER_LIMIT * 2.0)]
