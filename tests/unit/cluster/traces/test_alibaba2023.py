"""The Alibaba reader: what rows mean, and how broken ones are refused."""

from pathlib import Path

import pytest

from cluster.traces.alibaba2023 import read
from orchestrator.ports import TraceError

SHARED = Path(__file__).parents[5] / "shared" / "data" / "traces" / "alibaba2023"
HEADER = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time"
GOOD = "p0,1500,2048,1,460,,LS,Running,10,110,30"
NODES = "sn,cpu_milli,memory_mib,gpu,model\nn0,64000,262144,2,P100\nn1,8000,1024,0,\n"


def pods_file(folder, *rows, header=HEADER):
    path = folder / "pods.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def nodes_file(folder, text=NODES):
    path = folder / "nodes.csv"
    path.write_text(text)
    return str(path)


def test_a_pod_is_a_trial_of_one_stage_with_its_demand(tmp_path):
    (trial,) = read(pods=pods_file(tmp_path, GOOD)).trials
    demand = trial.stages[0].demand
    assert (trial.trial_id, trial.submitted_at, trial.line) == ("p0", 10.0, 2)
    assert (demand.devices, demand.share, demand.memory_bytes) == (1, 0.46, 0)
    assert (demand.cpus, demand.host_memory_bytes) == (1.5, 2048 << 20)


def test_a_pod_runs_from_when_it_was_scheduled_to_when_it_was_deleted(tmp_path):
    (trial,) = read(pods=pods_file(tmp_path, GOOD)).trials
    assert trial.stages[0].duration_s == 80.0


def test_a_pod_that_was_never_scheduled_counts_from_its_creation(tmp_path):
    (trial,) = read(pods=pods_file(tmp_path, "p0,1500,2048,1,460,,LS,Pending,10,110,")).trials
    assert trial.stages[0].duration_s == 100.0


def test_a_pod_without_gpus_is_work_for_the_host(tmp_path):
    (trial,) = read(pods=pods_file(tmp_path, "p0,1500,2048,0,0,,LS,Running,10,110,30")).trials
    assert trial.stages[0].demand.devices == 0


def test_gpu_models_are_split(tmp_path):
    (trial,) = read(pods=pods_file(tmp_path, "p0,1500,2048,1,1000,V100M32|V100M16,LS,Running,10,110,30")).trials
    assert trial.stages[0].demand.models == ("V100M16", "V100M32")


def test_trials_are_in_order_of_submission(tmp_path):
    trace = read(pods=pods_file(tmp_path, "late,1,1,1,10,,LS,Running,20,30,20", "early,1,1,1,10,,LS,Running,5,30,5"))
    assert [trial.trial_id for trial in trace.trials] == ["early", "late"]


def test_columns_may_come_in_any_order_with_others_among_them(tmp_path):
    names = HEADER.split(",")
    header = ",".join(["extra", *reversed(names)])
    row = ",".join(["x", *reversed(GOOD.split(","))])
    (trial,) = read(pods=pods_file(tmp_path, row, header=header)).trials
    assert (trial.trial_id, trial.stages[0].demand.share) == ("p0", 0.46)


def test_nodes_have_their_devices_cores_and_memory(tmp_path):
    trace = read(pods=pods_file(tmp_path, GOOD), nodes=nodes_file(tmp_path))
    big, host = trace.nodes
    assert [(d.device_id, d.index, d.model) for d in big.devices] == [("n0/0", 0, "P100"), ("n0/1", 1, "P100")]
    assert (big.cpus, big.host_memory_bytes) == (64.0, 262144 << 20)
    assert host.devices == ()


def test_without_a_nodes_file_the_cluster_is_not_known(tmp_path):
    assert read(pods=pods_file(tmp_path, GOOD)).nodes == ()


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("p1,1500,2048,1,460,,LS,Running,10", "has too few cells, or too many"),
        (",1500,2048,1,460,,LS,Running,10,110,30", "has no name"),
        ("p0,1500,2048,1,460,,LS,Running,10,110,30", "a second pod is named p0"),
        ("p1,many,2048,1,460,,LS,Running,10,110,30", "cpu_milli='many' is no whole number"),
        ("p1,1500,-1,1,460,,LS,Running,10,110,30", "memory_mib=-1 is negative"),
        ("p1,1500,1e12,1,460,,LS,Running,10,110,30", "memory_mib='1e12' is no whole number"),
        ("p1,1500,99999999999,1,460,,LS,Running,10,110,30", "memory_mib=99999999999 is more than there can be"),
        ("p1,1500,2048,1,1460,,LS,Running,10,110,30", "gpu_milli=1460 is more than one GPU"),
        ("p1,1500,2048,1,0,,LS,Running,10,110,30", "num_gpu=1 and gpu_milli=0 contradict each other"),
        ("p1,1500,2048,1,460,,LS,Running,-10,110,30", "creation_time=-10 is negative"),
        ("p1,1500,2048,1,460,,LS,Running,10,soon,30", "deletion_time='soon' is no number of seconds"),
        ("p1,1500,2048,1,460,,LS,Running,10,inf,30", "deletion_time=inf is not finite"),
        ("p1,1500,2048,1,460,,LS,Running,10,20,30", "its times run backwards"),
        ("p1,1500,2048,1,460,,LS,Running,10,110,5", "its times run backwards"),
    ],
)
def test_a_broken_row_is_refused_with_file_and_line(row, says, tmp_path):
    path = pods_file(tmp_path, GOOD, row)
    with pytest.raises(TraceError) as refusal:
        read(pods=path)
    assert str(refusal.value).startswith(f"{path}:3: {says}")
    assert "--skip-bad-rows" in str(refusal.value)


def test_broken_rows_can_be_left_out_and_are_counted(tmp_path):
    pods = pods_file(tmp_path, GOOD, "p1,x,2048,1,460,,LS,Running,10,110,30", "p2,1,2048,1,460,,LS,Running,1,110,30")
    nodes = nodes_file(tmp_path, NODES + "n2,1,1,minus,T4\n")
    trace = read(pods=pods, nodes=nodes, skip_bad_rows=True)
    assert ([trial.trial_id for trial in trace.trials], trace.skipped_rows) == (["p2", "p0"], 2)


def test_a_broken_node_is_refused_with_file_and_line(tmp_path):
    nodes = nodes_file(tmp_path, NODES + "n0,1,1,1,T4\n")
    with pytest.raises(TraceError, match=r"nodes\.csv:4: sn='n0' is empty or taken"):
        read(pods=pods_file(tmp_path, GOOD), nodes=nodes)


def test_a_node_with_more_gpus_than_there_can_be_is_refused(tmp_path):
    nodes = nodes_file(tmp_path, NODES + "n2,1,1,900000000,T4\n")
    with pytest.raises(TraceError, match=r"nodes\.csv:4: gpu=900000000 is more than there can be; use at most 1024"):
        read(pods=pods_file(tmp_path, GOOD), nodes=nodes)


def test_a_file_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(TraceError, match=r"nowhere\.csv: can't be read: No such file"):
        read(pods=str(tmp_path / "nowhere.csv"))


def test_a_file_without_a_column_is_said_so(tmp_path):
    with pytest.raises(TraceError, match=r"pods\.csv:1: no column gpu_milli, gpu_spec"):
        read(
            pods=pods_file(
                tmp_path, header="name,cpu_milli,memory_mib,num_gpu,creation_time,deletion_time,scheduled_time"
            )
        )


def test_a_file_that_is_no_text_is_said_so(tmp_path):
    path = tmp_path / "pods.csv"
    path.write_bytes(bytes([0xFF, 0xFE, 0x00, 0x81]) * 10)
    with pytest.raises(TraceError, match="is no CSV text"):
        read(pods=str(path))


def test_a_file_without_pods_is_refused(tmp_path):
    with pytest.raises(TraceError, match="holds no usable pod"):
        read(pods=pods_file(tmp_path))


@pytest.mark.skipif(not SHARED.exists(), reason=f"the public trace is not at {SHARED}")
def test_the_public_trace_is_what_its_readme_says():
    trace = read(pods=str(SHARED / "openb_pod_list_default.csv"), nodes=str(SHARED / "openb_node_list_gpu_node.csv"))
    assert (len(trace.trials), len(trace.nodes)) == (8152, 1213)
    assert sum(len(node.devices) for node in trace.nodes) == 6212
    asked = sum(s.demand.devices * s.demand.share for t in trace.trials for s in t.stages)
    assert asked == pytest.approx(6086.8)
