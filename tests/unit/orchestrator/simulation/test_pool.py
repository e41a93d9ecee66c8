"""Runs in processes of their own are the runs of this process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.ports import TraceError
from orchestrator.simulation.composing import compose_runs
from orchestrator.simulation.pool import run_all
from tests.unit.orchestrator.simulation.workloads import PODS, files

HEADER = PODS.splitlines(keepends=True)[0]


def results(runs, jobs):
    told = []
    found = run_all(runs, jobs=jobs, skip_bad_rows=False, done=lambda run, result: told.append(result))
    assert sorted(map(id, told)) == sorted(map(id, found))
    return [result.to_json() | {"wall_s": 0.0} for result in found]


@pytest.mark.slow
def test_a_pool_gives_what_one_process_gives_in_the_order_of_the_runs(tmp_path):
    runs = compose_runs([*files(tmp_path), "packing=best_fit,exclusive", "seed=range(0,3)"])
    assert results(runs, jobs=2) == results(runs, jobs=1)


@pytest.mark.slow
def test_what_a_run_raises_in_a_process_is_raised_here(tmp_path):
    pods = HEADER + "a,1,1,0,0,,LS,Running,0,1,0\n"
    runs = compose_runs([*files(tmp_path, pods), "trace.protocol=arrivals_only", "seed=0,1"])
    with pytest.raises(TraceError, match="nothing asks for a device"):
        run_all(runs, jobs=2, skip_bad_rows=False, done=lambda run, result: None)


def processes_of(group: int) -> int:
    found = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            found += fields[2] == str(group) and fields[0] != "Z"
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_who_started_it(sent, tmp_path):
    rows = "".join(f"p{n},1000,1024,1,{10 + n % 900},,LS,Running,{n},{n + 1000},{n}\n" for n in range(50_000))
    command = [sys.executable, "-m", "orchestrator.cli", "simulate", *files(tmp_path, HEADER + rows)]
    started = subprocess.Popen(
        [*command, "seed=range(0,8)", "cluster.nodes=2", "--jobs", "2", "--format", "json"],
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"ORCHESTRATOR_HOME": str(tmp_path)},
    )  # fmt: skip
    deadline = time.monotonic() + 60.0
    while processes_of(started.pid) < 4 and time.monotonic() < deadline:  # this one, the server, and two of its own
        time.sleep(0.1)
    if sent is signal.SIGINT:
        os.killpg(started.pid, sent)
    else:
        started.kill()
    out, err = started.communicate(timeout=60.0)
    while processes_of(started.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(started.pid) == 0
    if sent is signal.SIGINT:
        assert started.returncode == 130
        assert out == ""
        assert err.splitlines()[-1] == "interrupted"
        assert "Traceback" not in err
