"""The benchmark of scheduling: it runs, and a summary says what was measured."""

import argparse

import pytest

from orchestrator.sweep import compose_study
from tests.bench.scheduling import PLACE, REPORTS, WORK, measure_cycles, measure_preemption, summarise

SIZES = argparse.Namespace(queued=12, devices=4, repeats=1)


def test_a_summary_gives_the_median_and_the_range_of_the_wall_times():
    rows = [{"wall_s": wall, "cpu_s": wall / 2} for wall in (3.0, 1.0, 2.0)]
    assert summarise({"cycle": rows})["cycle"] == {
        "median_s": 2.0,
        "low_s": 1.0,
        "high_s": 3.0,
        "cpu_s": 1.0,
        "runs": 3,
    }


@pytest.mark.parametrize("ordering", ["fifo", "fair_share"])
def test_every_kind_of_cycle_is_measured(ordering):
    composed = compose_study([*WORK, "seed=range(0,16)"])
    times = measure_cycles(SIZES, ordering, composed.config, composed.variants)
    assert {PLACE, "nothing fits", f"{REPORTS} reports", "forecast of the whole queue"} < times.keys()


def test_residents_of_lower_priority_make_room_for_the_queue():
    composed = compose_study([*WORK, "seed=range(0,16)"])
    times = measure_preemption(SIZES, composed.config, composed.variants)
    assert "requeue those who left and place others" in times
