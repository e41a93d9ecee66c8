"""One run: the loop is the live one, and time passes where something may change."""

import json

import pytest

from cluster.simulated import SimulatedCluster
from orchestrator.config import ConfigError
from orchestrator.loop import SchedulingLoop
from orchestrator.schema import Demand, TraceStage
from orchestrator.simulation.composing import compose_runs
from orchestrator.simulation.runner import _with_company, simulate
from orchestrator.state import validate
from tests.unit.orchestrator.simulation.workloads import PODS, config, files, node, simulated, simulation, stage, trial


def many(count: int = 250):
    return [trial(f"t{n:03d}", 0.0, stage(10.0)) for n in range(count)]


def test_it_is_the_loop_that_serves_and_a_cluster_in_virtual_time():
    run = simulation(many(1), [node()])
    assert type(run.loop) is SchedulingLoop
    assert type(run.cluster) is SimulatedCluster


def test_the_machine_is_sound_at_every_event():
    run = simulation([trial(f"t{n}", n % 3, stage(5.0, share=0.5), stage(2.0)) for n in range(8)], [node(devices=2)])
    run.cluster.start()
    run.loop.wait_for_devices(0.0)
    while not run.cluster.idle():
        run.loop.cycle(1e9)
        validate(run.loop.state)
    assert run.recorder.unfinished == 0


def test_more_than_one_cycle_places_start_at_the_same_time():
    assert simulated(many(), [node(f"n{i:03d}") for i in range(250)]).makespan_s == 10.0


def test_what_can_never_start_is_left_unfinished_and_the_run_ends():
    result = simulated(
        many(2), [node()], "tenants.tenants.default.quota=0", "tenants.tenants.default.borrowing_limit=0"
    )
    assert (result.completed, result.unfinished, result.makespan_s) == (0, 2, 0.0)


def test_a_bundle_old_enough_to_be_preempted_is_so_at_that_very_time():
    low, high = trial("low", 0.0, stage(1000.0)), trial("high", 1.0, stage(10.0))
    high = type(high)(**{name: getattr(high, name) for name in high.__slots__} | {"priority": 10})
    result = simulated(
        [low, high], [node()], "ordering=priority", "preemption=least_lost", "preemption.min_hold_s=100"
    )  # fmt: skip
    assert result.preemptions == 1
    # low stops at its step boundary at 101 (a step is a second), high runs to 111, low has 899 s left.
    assert result.makespan_s == pytest.approx(1010.0)


def test_a_slowdown_stretches_who_shares_a_device():
    halves = [trial(name, 0.0, stage(10.0, share=0.5)) for name in "ab"]
    dotted = "cluster.slowdown=tests.unit.orchestrator.simulation.test_runner:twice_as_slow"
    assert simulated(halves, [node()], dotted).makespan_s == 20.0


def twice_as_slow(launch, others):
    return 2.0 if others else 1.0


def test_fragmentation_is_what_is_free_and_of_no_use_to_the_workload():
    pods = [trial(f"p{i}", float(i), stage(1.0, share=0.6)) for i in range(4)]
    assert simulated(pods, [node(devices=2)], "trace.protocol=arrivals_only").fragmentation == pytest.approx(0.4)
    assert simulated(pods[:1], [node(devices=2)]).fragmentation == 0.0


def test_a_policy_that_learns_the_demands_needs_not_be_told_them():
    told = simulation(many(3), [node()], "trace.known_demands=true").loop.state.arrivals
    untold = simulation(many(3), [node()]).loop.state.arrivals
    assert told.expected == {Demand(devices=1, share=1.0, memory_bytes=0): 3.0}
    assert untold.expected == {}


def test_under_arrivals_only_the_demands_are_known():
    run = simulation(many(3), [node()], "trace.protocol=arrivals_only")
    assert sum(run.loop.state.arrivals.expected.values()) == 3.0
    assert not simulation(
        many(3), [node()], "trace.protocol=arrivals_only", "trace.known_demands=false"
    ).loop.state.arrivals.known


def test_a_policy_that_gives_up_is_refused_in_words(tmp_path):
    pods = PODS + "".join(f"t{n},1,1,1,{300 + n},,LS,Running,0,60,0\n" for n in range(40))
    (run,) = compose_runs([*files(tmp_path, pods), "packing=optimal", "packing.limit_s=1e-6"])
    with pytest.raises(ConfigError, match=r"^packing=optimal: .* are not solved after packing.limit_s=1e-06; ask"):
        simulate(run.config)


def test_equal_runs_have_equal_results():
    trials = [trial(f"t{n}", n / 3, stage(n % 7 + 1.0, share=0.5)) for n in range(40)]
    overrides = ("preemption=least_lost", "ordering=shortest_first", "durations=learned")
    one, two = (simulated(trials, [node(devices=3)], *overrides).to_json() for _ in range(2))
    one.pop("wall_s")
    two.pop("wall_s")
    assert json.dumps(one) == json.dumps(two)


def test_studies_that_are_over_are_forgotten():
    run = simulation([trial(f"t{n}", 10_000.0 * n, stage(1.0)) for n in range(10)], [node()])
    run.to_the_end()
    assert len(run.loop.state.trials) == 1
    assert run.recorder.completion_s.tolist() == [1.0] * 10


def test_trials_of_one_study_with_two_tenants_count_for_their_own():
    trials = [trial(t, 0.0, stage(10.0), study="s", tenant=t) for t in ("reasoning", "alignment")]
    assert set(simulated(trials, [node(devices=2)]).fairness_by_tenant) == {"reasoning", "alignment"}


def test_a_stage_that_takes_no_time_is_over_at_once():
    result = simulated([trial("a", 3.0, TraceStage(name="x", demand=stage(1.0).demand, duration_s=0.0))], [node()])
    assert (result.completed, result.jct_mean_s, result.fairness) == (1, 0.0, None)


def test_trials_of_one_study_that_come_together_with_others_between_them_all_arrive():
    trials = [trial(f"t{n}", 0.0, stage(10.0), study="s", tenant=("mine", "theirs")[n % 2]) for n in range(4)]
    assert simulated(trials, [node(devices=4)]).completed == 4


def test_a_trial_whose_stages_are_all_there_is_over_at_once():
    warm = stage(10.0, key="warm-up")
    result = simulated([trial("a", 0.0, warm), trial("b", 50.0, warm)], [node()])
    assert (result.completed, result.jct_p50_s, result.makespan_s) == (2, 5.0, 50.0)


@pytest.mark.parametrize(
    ("overrides", "apart"),
    [
        (["packing=frontier"], False),
        (["packing=frontier", "interference=post_training"], True),
        (["packing=frontier", "packing.apart=true"], True),
        (["packing=frontier", "packing.apart=false", "interference=post_training"], False),
        (["packing=best_fit"], None),
    ],
)
def test_free_devices_are_taken_to_have_no_company_where_somebody_slows_somebody_down(
    overrides: list[str], apart: bool | None
):
    assert _with_company(config(*overrides))["packing"].get("apart") is apart
