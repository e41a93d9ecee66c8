"""Which bundles are looked at, when, what counts as theirs, and what a refused allocation says."""

import contextlib
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from cluster import memory
from cluster.memory import (
    LOOKED_AT_EVERY,
    Excess,
    Limit,
    MemoryWatch,
    limit_of,
    oom_kills,
    part_of,
    private_memory_bytes,
    refused,
    total_bytes,
)
from orchestrator.schema import CUDA_CONTEXT_BYTES, DeviceKind, Placement

MIB, GIB = 1 << 20, 1 << 30


def limit(memory_bytes, kind=DeviceKind.CPU, host_memory_bytes=0, members=1):
    placement = Placement(
        stage_key="k", device_ids=("n/0",), share=1.0, memory_bytes=memory_bytes, host_memory_bytes=host_memory_bytes
    )
    return limit_of(kind, [placement] * members)


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
        assert watch.excess("p", limit(GIB), [pid]) is None
        excess = watch.excess("p", limit(40 * MIB), [pid])
    assert excess.used_bytes > excess.limit_bytes == 40 * MIB
    assert not excess.on_host


GROWS = """
import os, sys
pid = os.fork()
if pid == 0:
    print(os.getpid(), flush=True)
    sys.stdin.readline()
    own = os.urandom(96 << 20)
    print("grown", flush=True)
    sys.stdin.readline()
os.waitpid(pid, 0)
"""


def test_one_far_from_its_limit_is_looked_at_every_few_samples(monkeypatch):
    looks = []
    monkeypatch.setattr(memory, "private_memory_bytes", lambda pid: looks.append(pid) or private_memory_bytes(pid))
    watch = MemoryWatch(0.5)
    with forked(MIB) as pid:
        for _ in range(2 * LOOKED_AT_EVERY):
            assert watch.excess("p", limit(GIB), [pid]) is None
        assert len(looks) == 2
        near = private_memory_bytes(pid) * 3 // 2
        for _ in range(3):
            assert watch.excess("p", limit(near), [pid]) is None
        assert len(looks) == 5


def test_one_far_from_its_limit_that_grows_beyond_it_is_found_at_the_next_sample():
    with subprocess.Popen(
        [sys.executable, "-c", GROWS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        try:
            pid, watch = int(parent.stdout.readline()), MemoryWatch(0.5)
            assert watch.excess("p", limit(80 * MIB), [pid]) is None
            parent.stdin.write("\n")
            parent.stdin.flush()
            parent.stdout.readline()
            assert watch.excess("p", limit(80 * MIB), [pid]).used_bytes > 90 * MIB
        finally:
            os.killpg(parent.pid, signal.SIGKILL)


def test_where_a_core_is_the_device_each_process_has_the_limit_to_itself():
    with forked(48 * MIB) as one, forked(48 * MIB) as other:
        assert MemoryWatch(0.5).excess("p", limit(80 * MIB), [one, other]) is None


def test_on_a_gpu_the_processes_share_a_limit_on_the_host():
    with forked(48 * MIB) as one, forked(48 * MIB) as other:
        excess = MemoryWatch(0.5).excess("p", limit(MIB, DeviceKind.CUDA, 80 * MIB), [one, other])
    assert excess.used_bytes > excess.limit_bytes == 80 * MIB
    assert excess.on_host


def test_a_process_that_is_gone_or_not_there_yet_has_nothing():
    assert private_memory_bytes(2**22 + 1) == 0
    assert MemoryWatch(0.5).excess("p", limit(1), []) is None


def test_programs_are_looked_at_not_more_often_than_told():
    watch = MemoryWatch(0.5)
    assert [watch.due(now) for now in (10.0, 10.4, 10.5)] == [True, False, True]


@pytest.mark.parametrize("unlimited", [limit(0), limit(MIB, DeviceKind.CUDA)])
def test_a_program_without_a_limit_is_not_over_it(unlimited):
    assert MemoryWatch(0.5).excess("p", unlimited, [os.getpid()]) is None


def test_a_stack_may_take_what_its_members_may_take_together():
    assert limit(MIB, members=3) == Limit(3 * MIB)
    assert limit(MIB, DeviceKind.CUDA, GIB, members=3) == Limit(3 * GIB, on_host=True)


def test_who_has_no_limit_makes_a_stack_that_has_none():
    assert total_bytes([MIB, 0]) == 0


def test_a_member_answers_for_its_part_of_what_was_too_much():
    excess = Excess(used_bytes=900, limit_bytes=600, on_host=True)
    assert part_of(excess, 200, [200, 400]) == Excess(used_bytes=300, limit_bytes=200, on_host=True)
    assert part_of(excess, 400, [200, 400]) == Excess(used_bytes=600, limit_bytes=400, on_host=True)


def test_all_answer_alike_where_nobody_has_a_limit():
    excess = Excess(used_bytes=900, limit_bytes=0, on_host=False)
    assert part_of(excess, 0, [0, 0, 0]) == Excess(used_bytes=300, limit_bytes=0, on_host=False)


def killed_after(vmstat, own_bytes, limit_bytes, kills, status=-signal.SIGKILL):
    """What a bundle of that size was ended for, if the kernel has killed so many since it was sampled."""
    vmstat.write_text("pgfault 7\noom_kill 3\n")
    watch = MemoryWatch(0.5, vmstat)
    with forked(own_bytes) as pid:
        watch.due(1.0)
        watch.excess("p", limit(limit_bytes), [pid])
    vmstat.write_text(f"pgfault 7\noom_kill {3 + kills}\n")
    return watch.killed_for_it("p", limit(limit_bytes), status)


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
