"""The benchmark of scale: its workload is what it says, a run serves all of it, a summary says what was measured."""

import pytest

from tests.bench.scale import KINDS, LOAD, SWEEP, Sweeps, drive, growth, summarise, sweeps


def test_the_same_seed_makes_the_same_sweeps():
    first, again = list(sweeps(100, 250, seed=3)), list(sweeps(100, 250, seed=3))
    assert first == again
    assert [len(sweep) for sweep in first] == [SWEEP, SWEEP, 50]


def test_sweeps_ask_for_the_load_in_the_long_run():
    made = list(sweeps(1000, 100 * 2000))
    asked = sum(t.stages[0].duration_s * t.stages[0].demand.devices * t.stages[0].demand.share for s in made for t in s)
    assert asked / (1000 * made[-1][0].submitted_at) == pytest.approx(LOAD, rel=0.15)


def test_fractions_whole_devices_and_gangs_are_all_there():
    asked = {(kind.devices > 1, kind.share < 1.0) for kind in KINDS}
    assert asked == {(False, True), (False, False), (True, False)}


def test_trials_are_made_again_for_whoever_goes_through_them():
    trials = Sweeps(devices=100, trials=250, seed=3)
    assert len(trials) == len(list(trials)) == len(list(trials)) == 250
    assert (trials[0], trials[-1]) == (next(iter(trials)), list(trials)[-1])


def test_a_run_places_every_trial_and_counts_those_behind_the_first():
    measured = drive(devices=100, trials=400, counts_from=150)
    assert (measured.devices, measured.trials) == (100, 400)
    assert 100 <= measured.placements <= 250
    assert 0.0 < measured.utilisation <= 1.0
    assert measured.packing_us > 0.0
    assert measured.decision_us > 0.0


def test_two_runs_decide_alike():
    first, again = drive(devices=50, trials=300), drive(devices=50, trials=300)
    assert (first.makespan_s, first.utilisation, first.wait_p99_s) == (
        again.makespan_s,
        again.utilisation,
        again.wait_p99_s,
    )


def test_growth_of_one_is_as_fast_as_the_logarithm():
    def point(devices: int, cost_us: float) -> dict:
        return {"devices": devices, "decision_us": {"median": cost_us}}

    assert growth([point(100, 50.0), point(10_000, 100.0)], "decision_us") == pytest.approx(1.0)
    assert growth([point(100, 50.0), point(10_000, 50.0)], "decision_us") == pytest.approx(0.5)


def test_a_summary_gives_the_median_and_the_range():
    run = drive(devices=50, trials=100)
    summary = summarise([run, run, run])
    assert summary["decision_us"] == {"median": run.decision_us, "low": run.decision_us, "high": run.decision_us}
    assert (summary["utilisation"], summary["runs"]) == (run.utilisation, 3)
