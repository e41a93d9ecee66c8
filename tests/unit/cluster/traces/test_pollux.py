"""The Pollux workloads: durations are those of the applications' profiles."""

from pathlib import Path

import pytest

from cluster.traces.errors import TraceError
from cluster.traces.pollux import profile, read

POLLUX = Path(__file__).parents[5] / "shared" / "data" / "traces" / "pollux"
needs_data = pytest.mark.skipif(not POLLUX.is_dir(), reason="../shared/data/traces/pollux is not there")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Profiles of one application, `net`, measured on 1, 4 (one node), 2 + 4 and 12 GPUs, and an empty workload."""
    net = tmp_path / "profiles" / "net"
    net.mkdir(parents=True)
    placements = ["placement,local_bsz,step_time,sync_time"]
    placements += [f"{p},{b},{s},{y}" for p, b, s, y in [(1, 8, 1.0, 0.0), (1, 16, 2.0, 0.0), (4, 8, 1.5, 0.5)]]
    placements += ["24,8,3.0,1.0", "33,8,9.0,1.0"]
    (net / "placements.csv").write_text("\n".join(placements))
    (net / "scalability.csv").write_text("num_nodes,num_replicas,local_bsz,step_time,sync_time\n3,12,8,4.0,2.0\n")
    for batch, iterations in [(8, 100), (48, 20), (96, 10)]:
        table = f"progress,iteration,metric,grad_sqr,grad_var\n1,{iterations // 2},0,0,0\n2,{iterations},0,0,0\n"
        (net / f"validation-{batch}.csv").write_text(table)
    return tmp_path


def workload(folder: Path, *rows: str) -> str:
    path = folder / "jobs.csv"
    path.write_text("\n".join(["name,time,application,num_replicas,batch_size", *rows]) + "\n")
    return str(path)


def duration_s(folder: Path, gpus: int, batch: int) -> float:
    return profile(str(folder / "profiles" / "net")).duration_s(gpus, batch, 4)


def test_a_job_takes_the_iterations_of_its_batch_size_times_the_seconds_of_a_step(folder: Path) -> None:
    assert duration_s(folder, 1, 8) == 100 * 1.0


def test_gpus_are_packed_onto_as_few_nodes_as_can_be(folder: Path) -> None:
    assert duration_s(folder, 6, 48) == 20 * 3.0


def test_a_placement_that_was_not_measured_by_itself_is_looked_up_by_its_numbers(folder: Path) -> None:
    assert duration_s(folder, 12, 96) == 10 * 4.0


def test_a_batch_too_large_for_a_gpu_is_accumulated_and_synchronized_once(folder: Path) -> None:
    # 96 / 4 = 24 a GPU is three parts of 8: two without synchronization, one with it.
    assert duration_s(folder, 4, 96) == 10 * (1.5 + 2 * 1.0)


def test_between_measurements_numbers_are_interpolated(folder: Path) -> None:
    assert duration_s(folder, 1, 12) == pytest.approx((100 - 80 * 4 / 40) * 1.5)


def test_a_job_is_a_trial_with_a_gang_on_as_many_nodes_as_it_needs(folder: Path) -> None:
    trace = read(workload=workload(folder, "late,9,net,6,48", "early,3,net,1,8"))
    assert [(t.trial_id, t.submitted_at, t.line) for t in trace.trials] == [("early", 3.0, 3), ("late", 9.0, 2)]
    stage = trace.trials[1].stages[0]
    assert (stage.demand.devices, stage.demand.max_nodes, stage.duration_s) == (6, 2, 60.0)


def test_the_cluster_is_that_of_the_paper_by_default(folder: Path) -> None:
    nodes = read(workload=workload(folder, "a,3,net,1,8")).nodes
    assert (len(nodes), {len(node.devices) for node in nodes}) == (16, {4})


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("a,-3,net,1,8", "time=-3"),
        ("a,3,nut,1,8", "application='nut' has no profile; there is: net"),
        ("a,3,net,0,8", "num_replicas=0"),
        ("a,3,net,5,48", "num_replicas=5: net was not measured on 5 GPUs of 2 nodes"),
        ("a,3,net,1,200", "batch_size=200 is outside what net was trained with; use 8 to 96"),
        ("a,3,net,4,8", "batch_size=8 is 2 a GPU, less than net was measured with; use at least 32"),
        ("a,3,net", "has too few cells"),
        ("good,3,net,1,8", "name='good' is empty or taken"),
    ],
)
def test_a_broken_row_is_refused_or_counted(folder: Path, row: str, says: str) -> None:
    path = workload(folder, "good,1,net,1,8", row)
    with pytest.raises(TraceError) as refused:
        read(workload=path)
    assert f"{path}:3: {says}" in str(refused.value)
    trace = read(workload=path, skip_bad_rows=True)
    assert ([trial.trial_id for trial in trace.trials], trace.skipped_rows) == (["good"], 1)


def test_a_broken_profile_is_refused_by_its_line(folder: Path) -> None:
    broken = folder / "profiles" / "net" / "placements.csv"
    broken.write_text(broken.read_text() + "\n1,32,fast,0\n")
    with pytest.raises(TraceError, match=r"placements.csv:7: step_time='fast'"):
        read(workload=workload(folder, "a,1,net,1,8"))


@needs_data
@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_job_of_the_published_workloads_has_a_duration(number: int) -> None:
    trace = read(workload=str(POLLUX / f"workload-{number}.csv"))
    assert (len(trace.trials), trace.skipped_rows) == (160, 0)
    assert all(0.0 < trial.stages[0].duration_s < 12 * 3600 for trial in trace.trials)


@needs_data
def test_more_gpus_train_a_published_application_faster_at_the_same_batch_size() -> None:
    bert = profile(str(POLLUX / "profiles" / "bert"))
    times = [bert.duration_s(gpus, 384, 4) for gpus in (6, 8, 12, 16)]
    assert times == sorted(times, reverse=True)
