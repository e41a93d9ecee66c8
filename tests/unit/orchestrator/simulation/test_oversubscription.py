"""A cluster that promises more than it has: more run at a time, and whoever shares is slowed down by more."""

import pytest

from orchestrator.simulation.composing import compose_runs
from orchestrator.simulation.oversubscription import Oversubscribed
from orchestrator.simulation.results import Result
from orchestrator.simulation.runner import simulate
from tests.unit.orchestrator.simulation.workloads import PODS, files, stage, trial

HALVES = "\n".join([PODS.splitlines()[0], *(f"p{i},1000,1024,1,500,,LS,Running,0,100,0" for i in range(4)), ""])
ONE_DEVICE = "sn,cpu_milli,memory_mib,gpu,model\nn0,8000,65536,1,T4\n"


def test_parts_count_as_less_whole_devices_and_gangs_do_not():
    asked = [
        trial("a", 0.0, stage(9.0, share=0.5)),
        trial("b", 1.0, stage(9.0)),
        trial("c", 2.0, stage(9.0, devices=2)),
    ]
    promised = Oversubscribed(asked, 2.0)
    assert [t.stages[0].demand.share for t in promised] == [0.25, 1.0, 1.0]
    assert [t.trial_id for t in promised[1:]] == ["b", "c"]
    assert (len(promised), promised[0].stages[0].duration_s) == (3, 9.0)


def halves(tmp_path, *overrides: str) -> list[Result]:
    """Four trials of 100 s that want half of the one device."""
    runs = compose_runs([*files(tmp_path, HALVES, ONE_DEVICE), "packing=first_fit", *overrides])
    return [simulate(run.config, swept=run.swept) for run in runs]


def test_more_of_them_run_at_a_time(tmp_path):
    once, twice = halves(tmp_path, "cluster.oversubscription=1,2")
    assert (once.makespan_s, twice.makespan_s) == (200.0, 100.0)
    assert (once.overrides, twice.overrides) == tuple({"cluster.oversubscription": f} for f in ("1", "2"))


def test_a_device_that_is_divided_fairly_gets_through_no_more(tmp_path):
    fairly = "cluster.slowdown=tests.unit.orchestrator.simulation.test_oversubscription:divided_fairly"
    once, twice = halves(tmp_path, "cluster.oversubscription=1,2", fairly)
    assert once.makespan_s == pytest.approx(400.0)
    assert twice.makespan_s == pytest.approx(400.0)
    assert once.jct_mean_s == pytest.approx(300.0)
    assert twice.jct_mean_s == pytest.approx(400.0)


def divided_fairly(launch, others) -> float:
    return 1.0 + len(others)
