"""Which bundles are looked at, when, what counts as theirs, and what a refused allocation says."""

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cluster.memory import MemoryWatch, oom_kills, private_memory_bytes, refused
from orchestrator.schema import CUDA_CONTEXT_BYTES, Device, DeviceKind
from tests.unit.cluster.launches import make_launch

MIB, GIB = 1 << 20, 1 << 30


def limited(memory_bytes, kind=DeviceKind.CPU, host_memory_bytes=0):
    device = Device(device_id="n/0", node_id="n", index=0, kind=kind, memory_bytes=GIB)
    launch = make_launch((device,))
    placement = replace(launch.placement, memory_bytes=memory_bytes, host_memory_bytes=host_memory_bytes)
    return SimpleNamespace(launch=replace(launch, placement=placement))


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
        watch = MemoryWatch(0.5)
        assert watch.excess(limited(GIB).launch, [pid]) is None
        excess = watch.excess(limited(40 * MIB).launch, [pid])
    assert excess.used_bytes > excess.limit_bytes == 40 * MIB
    assert not excess.on_host


def test_where_a_core_is_the_device_each_process_has_the_limit_to_itself():
    with forked(48 * MIB) as one, forked(48 * MIB) as other:
        assert MemoryWatch(0.5).excess(limited(80 * MIB).launch, [one, other]) is None


def test_on_a_gpu_the_processes_share_a_limit_on_the_host():
    with forked(48 * MIB) as one, forked(48 * MIB) as other:
        excess = MemoryWatch(0.5).excess(limited(MIB, DeviceKind.CUDA, 80 * MIB).launch, [one, other])
    assert excess.used_bytes > excess.limit_bytes == 80 * MIB
    assert excess.on_host


def test_a_process_that_is_gone_or_not_there_yet_has_nothing():
    assert private_memory_bytes(2**22 + 1) == 0
    assert MemoryWatch(0.5).excess(limited(1).launch, []) is None


def test_only_bundles_with_a_limit_are_looked_at_and_not_more_often_than_told():
    watch = MemoryWatch(0.5)
    running = [limited(MIB), limited(0), limited(MIB, DeviceKind.CUDA), limited(0, DeviceKind.CUDA, MIB)]
    assert watch.due(running, 10.0) == [running[0], running[3]]
    assert watch.due(running, 10.4) == []
    assert watch.due(running, 10.5) == [running[0], running[3]]


def killed_after(vmstat, own_bytes, limit_bytes, kills, status=-signal.SIGKILL):
    """What a bundle of that size was ended for, if the kernel has killed so many since it was sampled."""
    vmstat.write_text("pgfault 7\noom_kill 3\n")
    watch, launch = MemoryWatch(0.5, vmstat), limited(limit_bytes).launch
    with forked(own_bytes) as pid:
        watch.due([limited(limit_bytes)], 1.0)
        watch.excess(launch, [pid])
    vmstat.write_text(f"pgfault 7\noom_kill {3 + kills}\n")
    return watch.killed_for_it(launch, status)


def test_the_kernels_kill_near_the_limit_is_for_memory(tmp_path):
    excess = killed_after(tmp_path / "vmstat", 48 * MIB, 52 * MIB, kills=1)
    assert excess.used_bytes >= excess.limit_bytes == 52 * MIB


@pytest.mark.parametrize(
    ("own_bytes", "kills", "status"), [(48 * MIB, 0, -9), (8 * MIB, 1, -9), (48 * MIB, 1, -11), (48 * MIB, 1, None)]
)
def test_another_death_is_not_for_memory(tmp_path, own_bytes, kills, status):
    assert killed_after(tmp_path / "vmstat", own_bytes, 52 * MIB, kills, status) is None


def test_a_kernel_that_does_not_count_kills_tells_nothing(tmp_path):
    assert oom_kills(tmp_path / "none") is None
    (tmp_path / "vmstat").write_text("pgfault 7\n")
    assert oom_kills(tmp_path / "vmstat") is None


def raised_by(allocate):
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        allocate()
    return caught.value


@pytest.mark.parametrize(
    "allocate", [lambda: np.empty(1 << 50, np.uint8), lambda: torch.empty(1 << 50, dtype=torch.int8)]
)
def test_what_the_host_refused_is_what_was_asked_for_on_top_of_what_was_held(allocate):
    excess = refused(raised_by(allocate), DeviceKind.CPU, GIB, 0)
    assert 1 << 50 < excess.used_bytes < (1 << 50) + (1 << 40)
    assert (excess.limit_bytes, excess.on_host) == (GIB, False)


def test_beside_a_gpu_host_memory_is_the_hosts():
    excess = refused(raised_by(lambda: np.empty(1 << 50, np.uint8)), DeviceKind.CUDA, GIB, 2 * GIB)
    assert (excess.limit_bytes, excess.on_host) == (2 * GIB, True)


def test_what_a_gpu_refused_is_the_devices_also_where_it_was_raised_again():
    message = (
        "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1 MiB is free"
    )
    try:
        try:
            raise torch.OutOfMemoryError(message)
        except RuntimeError as error:
            raise ValueError("the step failed") from error
    except ValueError as error:
        excess = refused(error, DeviceKind.CUDA, GIB, 4 * GIB)
    used = CUDA_CONTEXT_BYTES + int(2.5 * GIB)
    assert (excess.used_bytes, excess.limit_bytes, excess.on_host) == (used, GIB, False)


def test_another_error_was_not_refused_memory():
    assert refused(ValueError("the loss is not a number"), DeviceKind.CPU, GIB, 0) is None
