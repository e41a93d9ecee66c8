"""Which bundles are looked at, when, and what counts as theirs."""

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

from cluster.bundle import RankProcess
from cluster.memory import MemoryWatch, private_memory_bytes
from orchestrator.schema import Device, DeviceKind
from tests.unit.cluster.launches import make_launch

MIB = 1 << 20


def limited(memory_bytes, kind=DeviceKind.CPU):
    device = Device(device_id="n/0", node_id="n", index=0, kind=kind, memory_bytes=1 << 30)
    launch = make_launch((device,))
    return SimpleNamespace(launch=replace(launch, placement=replace(launch.placement, memory_bytes=memory_bytes)))


PROGRAM = """
import os, sys, time
shared = os.urandom(64 << 20)
pid = os.fork()
if pid == 0:
    own = os.urandom(int(sys.argv[1]))
    print(os.getpid(), flush=True)
    time.sleep(600)
os.waitpid(pid, 0)
"""


@contextlib.contextmanager
def forked(own_bytes):
    """The id of a process forked from one that has 64 MiB, with `own_bytes` of its own."""
    command = [sys.executable, "-c", PROGRAM, str(own_bytes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as parent:
        try:
            yield int(parent.stdout.readline())
        finally:
            os.killpg(parent.pid, signal.SIGKILL)


def test_pages_still_shared_with_the_forkserver_do_not_count():
    with forked(0) as pid:
        assert 0 < private_memory_bytes(pid) < 32 * MIB


def test_a_process_over_its_limit_is_told_with_both_numbers():
    with forked(48 * MIB) as pid:
        watch, process = MemoryWatch(0.5), RankProcess(0, pid=pid)
        assert watch.excess(limited(1 << 30).launch, process) == ""
        reason = watch.excess(limited(40 * MIB).launch, process)
    assert reason.startswith("rank 0 used 0.0")
    assert f"memory_bytes={40 * MIB}" in reason


def test_a_process_that_is_gone_or_not_there_yet_has_nothing():
    assert private_memory_bytes(2**22 + 1) == 0
    assert MemoryWatch(0.5).excess(limited(1).launch, RankProcess(0)) == ""


def test_only_bundles_on_cores_with_a_limit_are_looked_at_and_not_more_often_than_told():
    watch = MemoryWatch(0.5)
    running = [limited(MIB), limited(0), limited(MIB, DeviceKind.CUDA)]
    assert watch.due(running, 10.0) == running[:1]
    assert watch.due(running, 10.4) == []
    assert watch.due(running, 10.5) == running[:1]
