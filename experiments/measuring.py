"""What a stage takes of the share that it was given: memory and time, for whoever packs stages onto devices.

Looked at after the first few steps, whenever more memory is taken since, and at the end.
"""

import math
import resource
import sys
import time
from dataclasses import dataclass
from functools import lru_cache

import psutil
import torch

from orchestrator.schema import CUDA_CONTEXT_BYTES, Assignment

FIRST_STEPS = 3
"""By then a stage has evaluated, sampled, learned and stepped: all that it will do has been done once."""
LEAST_S, GROWTH = 2.0, 0.05
"""It is looked at again at most this often [s], and said again once it has grown by this part."""
AT_ONCE_S = 1.0
"""Stages of one process that ask within this time are told the same [s], unless it has grown: what is private takes
milliseconds to read, and members of a stack end together, one behind the other."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """The most memory so far of the device and of the host [bytes], and the part of the time so far in which the
    process kept its share of the device busy (0 to 1; None if nobody can say)."""

    memory_bytes: int
    host_memory_bytes: int
    utilisation: float | None


class Meter:
    """Of a stage in its process, which it may share: its time begins now.

    `members` is the most stages that the process has had at once, all with the same share: each counts for as much of
    what the process has taken, and together they have as much more to keep busy.
    """

    def __init__(self, assignment: Assignment, device: torch.device) -> None:
        self._device = device
        self._cores = assignment.threads * assignment.share if device.type == "cpu" else 0.0
        self._share = assignment.share
        self._has_nvml = True
        self._began = time.perf_counter(), time.process_time()
        self._steps = 0
        self._looked_at = float("-inf")
        self._said = self._largest = 0
        self._busy: list[float] = []

    def after_step(self, members: int = 1, learned: bool = True) -> Measurement | None:
        """What is to be said after one more step, if anything. `learned`: there was something to learn from by now."""
        self._steps += 1
        now = time.perf_counter()
        if self._steps < FIRST_STEPS or not learned or now - self._looked_at < LEAST_S:
            return None
        self._looked_at = now
        self._sample(members)
        # The resident set can be read a thousand times faster than what of it is private.
        if self._said and self._quickly() - self._largest < GROWTH * self._said:
            return None
        return self.now(members)

    def now(self, members: int = 1) -> Measurement:
        """As it is."""
        self._largest = self._quickly()
        host = _private_peak_at_once()
        memory = host if self._device.type == "cpu" else self._largest + CUDA_CONTEXT_BYTES
        self._said = memory
        return Measurement(memory // members, host // members, self._utilisation(members))

    def _quickly(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_reserved(self._device))
        return largest_resident_bytes()

    def _sample(self, members: int) -> None:
        """NVML counts whoever is on the device: of a part of it nothing can be said."""
        alone = self._share * members > 1.0 - 1e-6
        if self._device.type == "cuda" and alone and self._has_nvml:
            try:
                self._busy.append(torch.cuda.utilization(self._device) / 100.0)
            except (ModuleNotFoundError, RuntimeError):  # without NVML's binding, or without its rights
                self._has_nvml = False

    def _utilisation(self, members: int) -> float | None:
        if self._device.type == "cuda":
            return sum(self._busy) / len(self._busy) if self._busy else None
        began_at, began_cpu_s = self._began
        elapsed_s = time.perf_counter() - began_at
        if elapsed_s <= 0.0 or self._cores <= 0.0:
            return None
        return min(1.0, (time.process_time() - began_cpu_s) / (elapsed_s * self._cores * members))


def largest_resident_bytes() -> int:
    """The largest resident set that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _private_peak_at_once() -> int:
    size = round(math.log(largest_resident_bytes()) / math.log1p(GROWTH))
    return _private_peak_of(round(time.perf_counter() / AT_ONCE_S), size)


@lru_cache(maxsize=1)
def _private_peak_of(_moment: int, _size: int) -> int:
    return private_peak_bytes()


def private_peak_bytes() -> int:
    """The most that this process has had to itself [bytes].

    The largest resident set counts the pages still shared with the forkserver, which exist once for all bundles.
    """
    memory = psutil.Process().memory_full_info()
    return int(max(memory.uss, largest_resident_bytes() - (memory.rss - memory.uss)))
