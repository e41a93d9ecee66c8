"""What stages ask for once one of their shape was measured."""

from dataclasses import replace

import pytest

from orchestrator.events import (
    BundleStopped,
    MemoryExceeded,
    NodeJoined,
    NodeLost,
    RecordAllocation,
    RecordMeasured,
    StageCompleted,
    StageMeasured,
    StageReported,
    TrialsAdded,
    WorkerLost,
)
from orchestrator.history.memory import MARGIN
from orchestrator.schema import Demand, Outcome
from tests.unit.orchestrator.builders import GIB, device, submitted, warm_started
from tests.unit.orchestrator.state.test_machine import Machine

ESTIMATE = 5 * GIB  # of a device of 8


def begin(machine: Machine, trials: int = 6, *, stated_gib: float = 0.0) -> None:
    """Trials that ask for half a device, and for more than half of its memory, behind a warm-up that is done."""
    event = submitted(trials, share=0.5, memory_bytes=ESTIMATE)
    machine.handle(replace(event, study=replace(event.study, config={"cluster": {"memory_per_trial_gib": stated_gib}})))
    machine.pack(at=0.0)
    machine.handle(StageCompleted(at=1.0, bundle_id="0", outcome=Outcome()))


def measured(machine: Machine, bundle_id: str, gib: float, utilisation: float | None = None) -> list:
    taken = int(gib * GIB)
    event = StageMeasured(
        at=3.0, bundle_id=bundle_id, memory_bytes=taken, host_memory_bytes=taken, utilisation=utilisation
    )
    return machine.handle(event)


def demanded(machine: Machine) -> set[int]:
    return {request.demand.memory_bytes for request in machine.snapshot(9.0).queue}


def test_stages_that_fit_one_per_device_by_estimate_fit_two_after_measuring(machine: Machine) -> None:
    begin(machine)
    first = machine.pack(at=2.0)
    assert len(first) == 2  # half of each device's share is free, and too little of its memory
    assert machine.pack(at=2.5) == []
    measured(machine, "1", 2.0)
    second = machine.pack(at=4.0)
    assert sorted(launch.placement.device_ids for launch in second) == sorted(x.placement.device_ids for x in first)


def test_those_that_wait_ask_for_what_was_measured_and_a_margin(machine: Machine) -> None:
    begin(machine)
    machine.pack(at=2.0)
    assert demanded(machine) == {ESTIMATE}
    measured(machine, "1", 2.0)
    (memory_bytes,) = demanded(machine)
    assert 2 * GIB <= memory_bytes <= 2 * GIB * MARGIN


def test_a_bundle_that_runs_keeps_what_it_was_given(machine: Machine) -> None:
    begin(machine)
    (launch, _) = machine.pack(at=2.0)
    free = [(device.free_share, device.free_memory_bytes) for device in machine.room.free()]
    measured(machine, launch.bundle_id, 2.0)
    assert machine.bundles[launch.bundle_id].launch.placement == launch.placement
    assert [(device.free_share, device.free_memory_bytes) for device in machine.room.free()] == free


def test_a_peak_that_grows_raises_what_is_asked_for_and_one_that_does_not_lowers_nothing(machine: Machine) -> None:
    begin(machine)
    machine.pack(at=2.0)
    for gib, most in ((2.0, 2.0), (3.0, 3.0), (1.0, 3.0)):
        measured(machine, "1", gib)
        assert demanded(machine) == {int(most * GIB * MARGIN)}


def test_more_than_the_estimate_is_asked_for_if_more_was_measured(machine: Machine) -> None:
    begin(machine)
    machine.pack(at=2.0)
    measured(machine, "1", 6.0)
    assert demanded(machine) == {int(6 * GIB * MARGIN)}


def test_the_margin_never_asks_for_more_than_the_largest_device_has(machine: Machine) -> None:
    begin(machine, trials=3)
    machine.pack(at=2.0)
    measured(machine, "1", 7.5)
    assert demanded(machine) == {8 * GIB}
    machine.handle(StageCompleted(at=4.0, bundle_id="1", outcome=Outcome()))
    assert len(machine.pack(at=5.0)) == 1


def test_a_larger_device_that_joins_is_asked_for_the_whole_margin(machine: Machine) -> None:
    begin(machine)
    machine.pack(at=2.0)
    measured(machine, "1", 7.5)
    large = device(0, "node-b", memory_bytes=32 * GIB)
    machine.handle(NodeJoined(at=4.0, node_id="node-b", devices=(large,)))
    assert demanded(machine) == {int(7.5 * GIB * MARGIN)}
    machine.handle(NodeLost(at=5.0, node_id="node-b", reason="gone"))
    assert demanded(machine) == {8 * GIB}


def test_what_a_person_has_stated_stays(machine: Machine) -> None:
    begin(machine, stated_gib=5.0)
    machine.pack(at=2.0)
    measured(machine, "1", 2.0)
    assert demanded(machine) == {ESTIMATE}


def test_another_stage_of_the_recipe_is_no_measure(machine: Machine) -> None:
    machine.handle(submitted(2, share=0.5, memory_bytes=ESTIMATE))
    machine.pack(at=0.0)
    measured(machine, "0", 2.0)
    machine.handle(StageCompleted(at=4.0, bundle_id="0", outcome=Outcome()))
    assert demanded(machine) == {ESTIMATE}


@pytest.mark.parametrize(
    "end", [WorkerLost(at=4.0, bundle_id="1", reason="gone"), BundleStopped(at=4.0, bundle_id="1")]
)
def test_a_later_attempt_asks_for_what_the_first_was_measured_to_take(machine: Machine, end: object) -> None:
    begin(machine, trials=1)
    machine.pack(at=2.0)
    measured(machine, "1", 2.0)
    machine.handle(end)
    assert demanded(machine) == {int(2 * GIB * MARGIN)}


def test_a_trial_that_comes_later_asks_for_what_was_measured(machine: Machine) -> None:
    begin(machine, trials=1)
    machine.pack(at=2.0)
    measured(machine, "1", 2.0)
    *_, late = warm_started(2)
    asks = {stage.key: Demand(devices=1, share=0.5, memory_bytes=ESTIMATE) for stage in late.variant.stages}
    machine.handle(TrialsAdded(at=4.0, trials=(late,), demands=asks))
    assert demanded(machine) == {int(2 * GIB * MARGIN)}


def test_a_run_that_nobody_measured_counts_by_its_outcome_up_to_what_it_was_given(machine: Machine) -> None:
    begin(machine)
    (launch, _) = machine.pack(at=2.0)
    given = launch.placement.memory_bytes
    machine.handle(StageCompleted(at=4.0, bundle_id="1", outcome=Outcome(peak_memory_bytes=2 * GIB)))
    assert demanded(machine) == {int(2 * GIB * MARGIN)}
    machine.handle(StageCompleted(at=4.0, bundle_id="2", outcome=Outcome(peak_memory_bytes=100 * GIB)))
    assert demanded(machine) == {int(given * MARGIN)}


def test_what_was_raised_is_not_lowered_again_by_a_run_that_took_less(machine: Machine) -> None:
    begin(machine, trials=2)
    machine.pack(at=2.0)
    limit = machine.bundles["1"].launch.placement.memory_bytes
    machine.handle(MemoryExceeded(at=3.0, bundle_id="1", used_bytes=limit + 1, limit_bytes=limit))
    (raised,) = demanded(machine)
    assert raised > limit
    measured(machine, "2", 2.0)
    machine.handle(StageCompleted(at=5.0, bundle_id="2", outcome=Outcome(peak_memory_bytes=2 * GIB)))
    assert demanded(machine) == {raised}


def test_the_ledger_has_what_was_expected_of_a_run_and_what_came_of_it(machine: Machine) -> None:
    begin(machine, trials=2)
    machine.handle(StageReported(at=1.0, bundle_id="0", step=5, metrics={}, progress=0.5))
    machine.pack(at=2.0)
    line = machine.bundles["1"].allocation
    assert (line.estimated_memory_bytes, line.estimated_from) == (ESTIMATE, "first principles")
    assert line.expected_low_s is not None
    assert line.expected_high_s is not None
    assert line.expected_s is not None
    assert line.expected_low_s < line.expected_s < line.expected_high_s
    said = measured(machine, "1", 2.0, utilisation=0.8)
    assert said == [RecordMeasured(bundle_id="1", peak_memory_bytes=2 * GIB, utilisation=0.8)]
    done = machine.handle(StageCompleted(at=4.0, bundle_id="1", outcome=Outcome(peak_memory_bytes=3 * GIB)))
    (closed,) = [i.allocation for i in done if isinstance(i, RecordAllocation)]
    assert (closed.peak_memory_bytes, closed.utilisation) == (3 * GIB, 0.8)


def test_the_next_run_of_the_shape_goes_by_what_was_measured(machine: Machine) -> None:
    begin(machine, trials=3)
    machine.pack(at=2.0)
    measured(machine, "1", 2.0)
    machine.handle(StageCompleted(at=4.0, bundle_id="1", outcome=Outcome()))
    machine.pack(at=5.0)
    line = machine.bundles["3"].allocation
    assert (line.estimated_memory_bytes, line.estimated_from) == (int(2 * GIB * MARGIN), "measured")
