"""The limit on a bundle's host memory where a CPU core stands in for a GPU (a GPU's is the allocator's own)."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

import psutil

from cluster.bundle import RankProcess
from orchestrator.events import Launch
from orchestrator.schema import DeviceKind

_GIB = 1 << 30


class _Launched(Protocol):
    @property
    def launch(self) -> Launch: ...


T = TypeVar("T", bound=_Launched)


class MemoryWatch:
    """Samples what processes have to themselves, at most every `sample_s`."""

    def __init__(self, sample_s: float) -> None:
        self._sample_s = sample_s
        self.next_sample = 0.0

    def due(self, running: Iterable[T], now: float) -> list[T]:
        """Those of `running` to look at now (monotonic seconds): none before the next sample, none without a limit."""
        if now < self.next_sample:
            return []
        self.next_sample = now + self._sample_s
        return [
            bundle
            for bundle in running
            if bundle.launch.placement.memory_bytes > 0 and bundle.launch.devices[0].kind is DeviceKind.CPU
        ]

    def excess(self, launch: Launch, process: RankProcess) -> str:
        """Why a process has too much; "" while it has not."""
        limit = launch.placement.memory_bytes
        used = private_memory_bytes(process.pid) if process.pid is not None else 0
        if used <= limit:
            return ""
        return (
            f"rank {process.rank} used {used / _GIB:.2f} GiB of host memory, over its limit of {limit / _GIB:.2f} GiB "
            f"(memory_bytes={limit})"
        )


def private_memory_bytes(pid: int) -> int:
    """The unique set of a process [bytes]: what the host would get back if it ended; 0 if it is gone.

    The resident set would count what a child still shares with the forkserver it was forked from (torch's pages),
    once per bundle, although they exist once.
    """
    try:
        return int(psutil.Process(pid).memory_full_info().uss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
