"""The arithmetic of the benchmark: what counts as overhead, and which slot a trial had."""

import pytest

from tests.bench.overhead import slot_overheads, slots_by_time, summarise


def row(began, ended, slot=0.0):
    return {"step_began_at": began, "step_ended_at": began + 0.1, "ended_at": ended, "slot": slot}


def test_overhead_is_from_the_end_of_the_trial_before_in_that_slot_to_the_step():
    rows = [row(5.0, 6.0), row(6.3, 7.0), row(5.5, 9.0, slot=1.0), row(9.2, 9.5, slot=1.0)]
    assert slot_overheads(rows, queued_at=0.0) == pytest.approx([0.3, 0.2])


def test_time_before_a_trial_was_queued_is_not_overhead():
    assert slot_overheads([row(1.0, 2.0), row(6.0, 7.0)], queued_at=5.5) == pytest.approx([0.5])


def test_a_trial_has_the_slot_that_was_free_the_longest():
    rows = slots_by_time([row(1.0, 5.0), row(1.1, 3.0), row(3.2, 4.0), row(5.1, 6.0)], slots=2)
    assert [r["slot"] for r in rows] == [0.0, 1.0, 1.0, 1.0]


def test_a_summary_gives_the_median_and_the_range_of_the_repeats_medians():
    runs = [
        {"overheads_s": [0.1, 0.2, 0.3], "wall_per_trial_s": 1.0, "step_s": 0.1, "start_s": 5.0},
        {"overheads_s": [0.2, 0.4, 0.6], "wall_per_trial_s": 3.0, "step_s": 0.3, "start_s": 7.0},
    ]
    summary = summarise(runs)
    assert summary["overhead_s"] == pytest.approx(0.25)
    assert (summary["overhead_low_s"], summary["overhead_high_s"]) == (0.2, 0.4)
    assert summary["wall_per_trial_s"] == 2.0
