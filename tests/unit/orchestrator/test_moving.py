"""moving: what is freed goes to whom it was freed for, in whole simulated runs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.schema import TraceTrial
from orchestrator.simulation.recorder import Recorder
from tests.unit.orchestrator.simulation.workloads import node, simulated, simulation, stage, trial

HOUR_S = 3600.0
NODES = (node("a", 4), node("b", 4))
MIGRATE = ("defragmentation=migrate", "defragmentation.min_hold_s=60", "cluster.startup_s=30")


def scattered() -> list[TraceTrial]:
    """Eight singles fill both nodes; those on the first two devices of each run for ten hours, the others end after ten
    minutes; then a gang of four has four devices in all, two on each node."""
    long = [trial(f"long{n}", 0.0, stage(10 * HOUR_S)) for n in range(4)]
    short = [trial(f"short{n}", 0.0, stage(600.0)) for n in range(4)]
    mixed = [t for pair in ((0, 1), (2, 3)) for t in (*(long[n] for n in pair), *(short[n] for n in pair))]
    return [*mixed, trial("gang", 700.0, stage(HOUR_S, devices=4))]


def waited_s(*overrides: str) -> float:
    recorder = Recorder()
    run = simulation(scattered(), NODES, "packing=first_fit", *overrides, recorder=recorder)
    run.to_the_end()
    assert run.result({}, 0.0).completed == 9
    return recorder.gang_wait_s[0]


def test_a_gang_that_would_wait_for_hours_starts_in_minutes() -> None:
    assert waited_s("defragmentation=never") > 9 * HOUR_S
    assert waited_s(*MIGRATE) < 300.0


def test_those_that_moved_lose_their_restart_and_nothing_else() -> None:
    run = simulated(scattered(), NODES, "packing=first_fit", *MIGRATE)
    assert run.preemptions == 2
    # Ten hours, two starts of 30 s, up to a step of a thousandth in waiting for a boundary.
    assert run.makespan_s is not None
    assert run.makespan_s == pytest.approx(10 * HOUR_S + 60.0, abs=40.0)


@pytest.mark.parametrize("packing", ["best_fit", "first_fit", "frontier", "fragmentation"])
def test_under_every_packing_the_gang_gets_what_was_freed(packing: str) -> None:
    recorder = Recorder()
    run = simulation(scattered(), NODES, f"packing={packing}", *MIGRATE, recorder=recorder)
    run.to_the_end()
    assert recorder.gang_wait_s[0] < 300.0
    assert recorder.preemptions <= 2


@st.composite
def workloads(draw: st.DrawFn) -> list[TraceTrial]:
    trials, at = [], 0.0
    for number in range(draw(st.integers(2, 14))):
        at += draw(st.sampled_from([0.0, 50.0, 400.0]))
        asks = draw(st.sampled_from([(1, 1.0), (1, 0.5), (2, 1.0), (4, 1.0)]))
        made = stage(draw(st.sampled_from([100.0, 2000.0, 30_000.0])), devices=asks[0], share=asks[1])
        trials.append(trial(f"t{number}", at, made))
    return trials


@settings(max_examples=40, deadline=None)
@given(trials=workloads(), packing=st.sampled_from(["best_fit", "first_fit", "frontier"]))
def test_every_run_ends_with_nobody_moved_too_often(trials: list[TraceTrial], packing: str) -> None:
    run = simulation(trials, NODES, f"packing={packing}", *MIGRATE)
    run.to_the_end()
    result = run.result({}, 0.0)
    assert result.completed == len(trials)
    assert result.preemptions <= 2 * len(trials)
