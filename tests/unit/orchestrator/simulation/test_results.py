"""What is said of a run, and what can't be said."""

import json

import pytest

from orchestrator.simulation.results import Result
from tests.unit.orchestrator.simulation.workloads import node, simulated, stage, trial

ASKED_FOR = (
    "policy", "seed", "unallocated_share_at_100", "unallocated_share_at_130", "makespan_s", "jct_mean_s", "jct_p99_s",
    "wait_mean_s", "utilisation", "experiments_per_gpu_hour", "wall_s", "fragmentation", "fairness", "preemptions",
    "placed", "dropped", "skipped_rows", "overrides",
)  # fmt: skip


def test_every_key_is_there_whatever_can_be_said():
    assert set(ASKED_FOR) <= set(Result(policy="best_fit", seed=0, overrides={}).to_json())


def test_a_result_is_plain_data():
    result = simulated([trial("a", 0.0, stage(10.0))], [node()]).to_json()
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["fairness"] == {"mean": 1.0, "max": 1.0}


def test_percentiles_lie_between_the_nearest_values():
    trials = [trial(f"t{n}", 0.0, stage(float(n))) for n in (1, 2, 3, 4)]
    result = simulated(trials, [node(devices=4)])
    assert result.jct_p50_s == 2.5
    assert result.jct_p99_s == pytest.approx(3.97)


def test_the_occupancy_is_over_time():
    result = simulated(
        [trial("a", 0.0, stage(10.0)), trial("b", 0.0, stage(5.0)), trial("c", 0.0, stage(5.0))], [node(devices=2)]
    )
    # a and b, then a and c: full for ten seconds. One waits for the first five.
    assert [(at, share) for at, share, _ in result.occupancy] == [(0.0, 0.0), (5.0, 1.0), (10.0, 1.0)]
    assert [waiting for _, _, waiting in result.occupancy] == [0.0, 1.0, 0.0]
