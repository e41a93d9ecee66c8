"""Drivers of clusters in processes of their own, to be killed and stopped."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import psutil

from tests.unit.cluster.launches import ROOT

_SOURCE = """
import json, sys
from pathlib import Path
from cluster.node import NodeCluster
from cluster.ray import RayCluster
from orchestrator.events import NodeJoined, StageReported
from orchestrator.ports import ClusterUnavailable
from tests.unit.cluster.launches import ROOT, make_launch, wait_for

name, home, options = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
cluster = {"NodeCluster": NodeCluster, "RayCluster": RayCluster}[name](
    home=home, artifacts=home / "artifacts", devices=1, python_path=(ROOT,), **options
)
cluster.start()
(joined,) = cluster.poll(30.0)
cluster.launch(make_launch(joined.devices, "leave_a_grandchild", config={"stay": True}))
print(int(wait_for(cluster, "b", StageReported).metrics["grandchild"]), flush=True)
try:
    while True:
        for event in cluster.poll(10.0):
            print(type(event).__name__, flush=True)
except ClusterUnavailable as error:
    print(error, flush=True)
cluster.close()
print("closed", flush=True)
"""


@contextlib.contextmanager
def running_driver(name, home, **options):
    """A driver whose bundle runs, as a Popen, and all the processes below it; the bundle's own child is among them."""
    command = [sys.executable, "-c", _SOURCE, name, str(home), json.dumps(options)]
    environment = {**os.environ, "PYTHONPATH": ROOT}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as driver:
        try:
            grandchild = psutil.Process(int(driver.stdout.readline()))
            yield driver, {*psutil.Process(driver.pid).children(recursive=True), grandchild}
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(driver.pid, signal.SIGKILL)


def wait_until_gone(processes, patience_s=5.0):
    """Asserts that they all end in time; a dead process that nobody reaps counts as gone."""
    deadline = time.monotonic() + patience_s
    while left := [p for p in processes if _lives(p)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def _lives(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
