"""Who takes more memory than was given: sampled by the agent, or said by a stage whose allocation was refused.

What is limited depends on the device. Where a CPU core stands in for a GPU, the host's memory is the device's: each
process may have `memory_bytes` to itself. On a GPU the allocator keeps a process within `memory_bytes` less its context
and refuses what is beyond; of the host the bundle's processes together may have `host_memory_bytes`. The program of a
stack may have what all of its members may have together.
"""

import math
import re
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from orchestrator.schema import CUDA_CONTEXT_BYTES, DeviceKind, Placement

# A process that the kernel killed for want of memory is blamed for it if it was known to have this part of its limit.
NEAR_ITS_LIMIT = 0.8
# One that can't have more than this part is looked at every so many samples.
FAR_FROM_ITS_LIMIT, LOOKED_AT_EVERY = 0.5, 4
_VMSTAT = Path("/proc/vmstat")
_UNITS = {unit: 1 << (10 * power) for power, unit in enumerate(("bytes", "KiB", "MiB", "GiB", "TiB", "PiB"))}
# What torch says for a GPU and for the host, and what numpy says.
_REFUSED = re.compile(r"(?:[Tt]ried|[Uu]nable) to allocate ([\d.]+) (bytes|[KMGTP]iB)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """More memory than was given, as `events.MemoryExceeded` says it."""

    used_bytes: int
    limit_bytes: int
    on_host: bool


@dataclass(frozen=True, slots=True)
class Limit:
    """What the processes of a program are sampled against: `used_bytes` of each, or of the host in all (`on_host`).
    0: no limit."""

    used_bytes: int = 0
    on_host: bool = False


def limit_of(kind: DeviceKind, placements: Iterable[Placement]) -> Limit:
    """Of one program that has all of `placements`: their sum. There is none if one of them has none."""
    if kind is DeviceKind.CPU:
        return Limit(total_bytes(placement.memory_bytes for placement in placements))
    return Limit(total_bytes(placement.host_memory_bytes for placement in placements), on_host=True)


def total_bytes(limits: Iterable[int]) -> int:
    """What those who have `limits` [bytes] may take together; 0, no limit, if one of them has none."""
    each = list(limits)
    return sum(each) if all(each) else 0


def part_of(excess: Excess, given_bytes: int, shares: Sequence[int]) -> Excess:
    """The part of a program's excess that one of its members answers for, who was given `given_bytes` of `shares`: in
    proportion to that, or all alike where nobody has a limit."""
    total = sum(shares)
    used = math.ceil(excess.used_bytes * given_bytes / total) if total else excess.used_bytes // max(1, len(shares))
    return Excess(used_bytes=used, limit_bytes=given_bytes, on_host=excess.on_host)


@dataclass(slots=True)
class _Seen:
    """What a process had to itself, and in all, when it was looked at; `samples` ago."""

    private_bytes: int
    resident_bytes: int
    samples: int = 0

    def now_at_most(self, resident_bytes: int) -> int:
        """But for what it has written to since of the pages that it shared."""
        return self.private_bytes + max(0, resident_bytes - self.resident_bytes)


class MemoryWatch:
    """Samples what processes have to themselves, at most every `sample_s`. `vmstat`: where the kernel counts whom it
    has killed for want of memory, on the whole machine.

    To look at a process takes the kernel milliseconds, in which the process can't get memory. So one that is far from
    its limit is looked at every few samples only, or once it has grown.
    """

    def __init__(self, sample_s: float, vmstat: Path = _VMSTAT) -> None:
        self._sample_s = sample_s
        self._vmstat = vmstat
        self._last: dict[str, int] = {}
        self._seen: dict[str, dict[int, _Seen]] = {}
        self._kills = oom_kills(vmstat)
        self.next_sample = 0.0

    def due(self, now: float) -> bool:
        """Whether it is time to look at all programs (monotonic seconds); then it is not again before the next
        sample."""
        if now < self.next_sample:
            return False
        self.next_sample = now + self._sample_s
        self._kills = oom_kills(self._vmstat)
        return True

    def excess(self, program: str, limit: Limit, pids: Sequence[int]) -> Excess | None:
        """What the processes of a program have too much of; None while they have not, or have no limit."""
        if not limit.used_bytes:
            return None
        each = [self._private_bytes(program, pid, limit.used_bytes // len(pids)) for pid in pids]
        used = sum(each) if limit.on_host else max(each, default=0)
        self._last[program] = used
        if used <= limit.used_bytes:
            return None
        return Excess(used_bytes=used, limit_bytes=limit.used_bytes, on_host=limit.on_host)

    def killed_for_it(self, program: str, limit: Limit, status: int | None) -> Excess | None:
        """What a process of the program, ended with `status` and not by us, was killed for by the kernel: its memory,
        if the kernel has killed somebody since the last sample and the program was near its limit then."""
        used = self._last.get(program, 0)
        near = limit.used_bytes > 0 and used >= NEAR_ITS_LIMIT * limit.used_bytes
        kills = oom_kills(self._vmstat)
        if status != -signal.SIGKILL or not near or self._kills is None or kills is None or kills <= self._kills:
            return None
        return Excess(used_bytes=max(limit.used_bytes, used), limit_bytes=limit.used_bytes, on_host=limit.on_host)

    def forget(self, program: str) -> None:
        """The program is over."""
        self._last.pop(program, None)
        self._seen.pop(program, None)

    def _private_bytes(self, program: str, pid: int, limit_bytes: int) -> int:
        seen = self._seen.setdefault(program, {})
        resident, last = resident_memory_bytes(pid), seen.get(pid)
        if last is not None and last.samples < LOOKED_AT_EVERY - 1:
            last.samples += 1
            if (now := last.now_at_most(resident)) <= FAR_FROM_ITS_LIMIT * limit_bytes:
                return now
        seen[pid] = _Seen(private_memory_bytes(pid), resident)
        return seen[pid].private_bytes


def resident_memory_bytes(pid: int) -> int:
    """The resident set of a process [bytes], what it shares included; 0 if it is gone. Takes microseconds."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def private_memory_bytes(pid: int) -> int:
    """The unique set of a process [bytes]: what the host would get back if it ended; 0 if it is gone.

    The resident set would count what a child still shares with the forkserver it was forked from (torch's pages),
    once per bundle, although they exist once.
    """
    try:
        return int(psutil.Process(pid).memory_full_info().uss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def oom_kills(vmstat: Path = _VMSTAT) -> int | None:
    """How many processes the kernel has killed for want of memory, of a cgroup's limit or the machine's; None if it
    doesn't say."""
    try:
        found = re.search(r"^oom_kill (\d+)$", vmstat.read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else int(found[1])


def refused(error: BaseException, kind: DeviceKind, memory_bytes: int, host_memory_bytes: int) -> Excess | None:
    """What a stage asked for in vain, if that is why it raised `error`; None if it isn't. The bytes are its limits.

    What it has at that moment counts too: on a GPU its context and what its allocator holds, on the host what the
    process has.
    """
    cause = next((e for e in _causes(error) if _is_refusal(e)), None)
    if cause is None:
        return None
    torch: Any = sys.modules.get("torch")
    of_device = torch is not None and isinstance(cause, torch.OutOfMemoryError)
    if of_device:
        held = CUDA_CONTEXT_BYTES + (int(torch.cuda.memory_reserved()) if torch.cuda.is_initialized() else 0)
    else:
        held = private_memory_bytes(psutil.Process().pid)
    on_host = not of_device and kind is DeviceKind.CUDA
    limit = host_memory_bytes if on_host else memory_bytes
    # Without a number it asked for something beyond what it had.
    return Excess(used_bytes=held + (_asked_for(cause) or 1), limit_bytes=limit, on_host=on_host)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and those that it was raised from or while handling, the latest first."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _is_refusal(error: BaseException) -> bool:
    torch: Any = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)


def _asked_for(error: BaseException) -> int:
    """Bytes that an allocation was refused for; 0 if the error doesn't tell."""
    found = _REFUSED.search(str(error))
    return int(float(found[1]) * _UNITS[found[2]]) if found else 0
