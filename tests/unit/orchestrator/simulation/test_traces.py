"""Which nodes a trace is played on, and what of it fits there."""

import json
from dataclasses import replace

import pytest

from orchestrator.config import ConfigError
from orchestrator.ports import TraceError
from orchestrator.schema import Demand
from orchestrator.simulation.composing import compose_runs
from orchestrator.simulation.traces import misfit, read_workload
from orchestrator.snapshot import Room
from tests.unit.orchestrator.simulation.workloads import NODES, PODS, files, node


def workload(folder, *overrides, pods=PODS, nodes=NODES, skip=False):
    (run,) = compose_runs([*files(folder, pods, nodes), *overrides])
    found = read_workload(run.config, skip_bad_rows=skip)
    return found.trace, found.nodes


def test_by_default_the_nodes_are_the_traces_own(tmp_path):
    trace, nodes = workload(tmp_path)
    assert [trial.trial_id for trial in trace.trials] == ["a", "b", "c", "d"]
    assert nodes == trace.nodes


def test_other_nodes_can_be_asked_for(tmp_path):
    _, nodes = workload(tmp_path, "cluster.nodes=12", "cluster.devices_per_node=2", "cluster.model=A100")
    assert (len(nodes), len(nodes[0].devices), nodes[0].devices[0].model) == (12, 2, "A100")
    assert [n.node_id for n in nodes] == sorted(n.node_id for n in nodes)


def test_a_trace_without_nodes_needs_some(tmp_path):
    overrides = [o for o in files(tmp_path) if not o.startswith("trace.nodes")]
    (run,) = compose_runs(overrides)
    with pytest.raises(ConfigError, match=r"cluster\.nodes=0: trace=alibaba2023 doesn't say which nodes"):
        read_workload(run.config, skip_bad_rows=False)


def test_an_unknown_gpu_model_is_refused_with_file_and_line(tmp_path):
    pods = PODS + "e,1000,1024,1,1000,H999,LS,Running,20,60,20\n"
    with pytest.raises(TraceError, match=r"pods\.csv:6: unknown GPU model H999: there is T4; .*--skip-bad-rows"):
        workload(tmp_path, pods=pods)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("e,1000,1024,3,1000,,LS,Running,20,60,20", "3 device"),
        ("e,9000,1024,1,1000,,LS,Running,20,60,20", "9 cores"),
        ("e,1000,65537,1,1000,,LS,Running,20,60,20", "64.0 GiB of host memory"),
    ],
)
def test_a_demand_that_fits_nowhere_is_refused_with_file_and_line(row, says, tmp_path):
    with pytest.raises(TraceError, match=rf"pods\.csv:6: the demand fits nowhere: .*{says}"):
        workload(tmp_path, pods=PODS + row + "\n")


def test_what_fits_nowhere_can_be_left_out_and_is_counted(tmp_path):
    pods = PODS + "e,1000,1024,3,1000,,LS,Running,20,60,20\nf,x,1,1,1,,LS,Running,20,60,20\n"
    trace, _ = workload(tmp_path, pods=pods, skip=True)
    assert (len(trace.trials), trace.skipped_rows) == (4, 2)


def test_a_trace_of_which_nothing_fits_is_refused(tmp_path):
    with pytest.raises(TraceError, match="none of its trials fits"):
        workload(
            tmp_path,
            pods="\n".join(PODS.splitlines()[row] for row in (0, 3)),
            nodes=NODES.replace(",2,", ",1,"),
            skip=True,
        )


def test_a_gang_that_may_reach_over_nodes_fits_on_several():
    room = Room([node("n0", 2), node("n1", 2)])
    gang = Demand(devices=4, share=1.0, memory_bytes=0, max_nodes=2)
    assert misfit(room, gang) == ""
    assert "on one node" in misfit(room, replace(gang, max_nodes=1))


def test_one_of_several_models_is_enough():
    demand = Demand(devices=1, share=1.0, memory_bytes=0, models=("A100", "T4"))
    assert misfit(Room([node()]), demand) == ""


def test_a_reader_that_takes_other_fields_is_refused(tmp_path):
    (run,) = compose_runs([*files(tmp_path), "trace.reader=json:dumps"])
    with pytest.raises(ConfigError, match=r"trace\.reader=json:dumps: .*its arguments are the trace's own fields"):
        read_workload(run.config, skip_bad_rows=False)
    assert json.dumps(dict(run.config["trace"]))
