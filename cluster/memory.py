"""Who takes more memory than was given: sampled by the agent, or said by a stage whose allocation was refused.

What is limited depends on the device. Where a CPU core stands in for a GPU, the host's memory is the device's: each
process may have `memory_bytes` to itself. On a GPU the allocator keeps a process within `memory_bytes` less its context
and refuses what is beyond; of the host the bundle's processes together may have `host_memory_bytes`.
"""

import re
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psutil

from orchestrator.events import Launch
from orchestrator.schema import CUDA_CONTEXT_BYTES, DeviceKind

# A process that the kernel killed for want of memory is blamed for it if it was known to have this part of its limit.
NEAR_ITS_LIMIT = 0.8
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


class _Launched(Protocol):
    @property
    def launch(self) -> Launch: ...


T = TypeVar("T", bound=_Launched)


class MemoryWatch:
    """Samples what processes have to themselves, at most every `sample_s`. `vmstat`: where the kernel counts whom it
    has killed for want of memory, on the whole machine."""

    def __init__(self, sample_s: float, vmstat: Path = _VMSTAT) -> None:
        self._sample_s = sample_s
        self._vmstat = vmstat
        self._last: dict[str, int] = {}
        self._kills = oom_kills(vmstat)
        self.next_sample = 0.0

    def due(self, running: Iterable[T], now: float) -> list[T]:
        """Those of `running` to look at now (monotonic seconds): none before the next sample, none without a limit."""
        if now < self.next_sample:
            return []
        self.next_sample = now + self._sample_s
        self._kills = oom_kills(self._vmstat)
        return [bundle for bundle in running if _limit(bundle.launch)[0] > 0]

    def excess(self, launch: Launch, pids: Sequence[int]) -> Excess | None:
        """What the processes of a bundle have too much of; None while they have not."""
        limit, on_host = _limit(launch)
        each = [private_memory_bytes(pid) for pid in pids]
        used = sum(each) if on_host else max(each, default=0)
        self._last[launch.bundle_id] = used
        return Excess(used_bytes=used, limit_bytes=limit, on_host=on_host) if used > limit else None

    def killed_for_it(self, launch: Launch, status: int | None) -> Excess | None:
        """What a process of the bundle, ended with `status` and not by us, was killed for by the kernel: its memory, if
        the kernel has killed somebody since the last sample and the bundle was near its limit then."""
        limit, on_host = _limit(launch)
        near = limit > 0 and self._last.get(launch.bundle_id, 0) >= NEAR_ITS_LIMIT * limit
        kills = oom_kills(self._vmstat)
        if status != -signal.SIGKILL or not near or self._kills is None or kills is None or kills <= self._kills:
            return None
        used = max(limit, self._last[launch.bundle_id])
        return Excess(used_bytes=used, limit_bytes=limit, on_host=on_host)

    def forget(self, bundle_id: str) -> None:
        """The bundle is over."""
        self._last.pop(bundle_id, None)


def _limit(launch: Launch) -> tuple[int, bool]:
    """What is sampled against [bytes], 0 for no limit, and whether it is the host's for the whole bundle."""
    placement = launch.placement
    if launch.devices and launch.devices[0].kind is DeviceKind.CPU:
        return placement.memory_bytes, False
    return placement.host_memory_bytes, True


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
