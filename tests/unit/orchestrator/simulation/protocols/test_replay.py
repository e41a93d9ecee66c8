"""Trials arrive when they did; what follows is worked out by hand."""

import pytest

from tests.unit.orchestrator.simulation.workloads import node, simulated, stage, trial

THREE = (trial("a", 5.0, stage(10.0)), trial("b", 6.0, stage(4.0)), trial("c", 7.0, stage(2.0)))


def test_completion_times_count_from_each_trials_submission():
    result = simulated(THREE, [node()])
    # a runs from 5 to 15, b to 19, c to 21.
    assert result.completed == 3
    assert result.jct_mean_s == pytest.approx((10 + 13 + 14) / 3)
    assert result.jct_p50_s == 13.0
    assert result.makespan_s == 16.0


def test_waits_count_from_submission_to_start():
    result = simulated(THREE, [node()])
    assert result.wait_mean_s == pytest.approx((0 + 9 + 12) / 3)


def test_utilisation_is_what_was_held_of_what_there_was_between_first_submission_and_last_end():
    assert simulated(THREE, [node()]).utilisation == pytest.approx(1.0)
    assert simulated(THREE[:1], [node(devices=4)]).utilisation == pytest.approx(0.25)


def test_experiments_per_gpu_hour_are_of_the_hours_held_and_beside_it_of_those_there_were():
    result = simulated(THREE[:1], [node(devices=4)])
    assert result.experiments_per_gpu_hour == pytest.approx(360.0)
    assert result.experiments_per_cluster_gpu_hour == pytest.approx(90.0)


def test_the_finish_time_ratio_is_the_completion_time_in_parts_of_the_time_alone():
    result = simulated(THREE, [node()])
    assert result.fairness.mean == pytest.approx((1.0 + 13 / 4 + 7.0) / 3)
    assert result.fairness.max == pytest.approx(7.0)


def test_finish_time_ratios_are_kept_by_tenant():
    mine = trial("a", 0.0, stage(10.0), tenant="mine")
    theirs = trial("b", 0.0, stage(10.0), tenant="theirs")
    result = simulated((mine, theirs), [node()])
    assert result.fairness_by_tenant["mine"].max == 1.0
    assert result.fairness_by_tenant["theirs"].max == 2.0


def test_halves_of_a_device_run_beside_each_other():
    halves = [trial(name, 0.0, stage(10.0, share=0.5)) for name in "ab"]
    assert simulated(halves, [node()]).makespan_s == 10.0
    assert simulated(halves, [node()], "packing=exclusive").makespan_s == 20.0


def test_stages_follow_each_other():
    result = simulated([trial("a", 0.0, stage(10.0), stage(5.0))], [node()])
    assert result.jct_mean_s == 15.0
    assert result.wait_mean_s == 0.0


def test_a_shared_stage_runs_once_for_all_who_need_it_also_later():
    warm = stage(10.0, key="warm-up")
    trials = [
        trial("a", 0.0, warm, stage(5.0)),
        trial("b", 0.0, warm, stage(5.0)),
        trial("c", 5000.0, warm, stage(5.0)),
    ]
    result = simulated(trials, [node(devices=2)])
    assert result.gpu_hours_held == pytest.approx((10 + 3 * 5) / 3600)
    assert result.makespan_s == 5005.0


def test_a_startup_delays_every_stage():
    assert simulated(THREE[:1], [node()], "cluster.startup_s=3").jct_mean_s == 13.0


def test_work_without_devices_is_played_too():
    result = simulated([trial("a", 0.0, stage(10.0, devices=0, cpus=2.0))], [node(cpus=4.0)])
    assert (result.completed, result.jct_mean_s, result.experiments_per_gpu_hour) == (1, 10.0, None)


def test_there_are_no_unallocated_shares():
    result = simulated(THREE, [node()])
    assert result.unallocated_share_at_100 is None
    assert result.unallocated_share_at_130 is None


def test_shortest_first_needs_the_durations_to_be_known():
    trials = [trial("now", 0.0, stage(10.0)), trial("long", 1.0, stage(100.0)), trial("short", 2.0, stage(1.0))]
    known = simulated(trials, [node()], "ordering=shortest_first")
    learned = simulated(trials, [node()], "ordering=shortest_first", "durations=learned")
    assert known.wait_mean_s == pytest.approx((0 + 8 + 10) / 3)
    assert learned.wait_mean_s == pytest.approx((0 + 9 + 108) / 3)


def test_who_is_overdue_goes_first_at_that_very_time():
    ordering = ("ordering=shortest_first", "ordering.max_wait_s=50")
    trials = [trial("now", 0.0, stage(60.0)), trial("long", 1.0, stage(100.0)), trial("short", 2.0, stage(1.0))]
    result = simulated(trials, [node()], *ordering)
    # Both are overdue at 60, when the device is free: by arrival.
    assert result.wait_mean_s == pytest.approx((0 + 59 + 158) / 3)
