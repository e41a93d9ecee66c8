"""How much memory stages were measured to take, and what is to be asked for in its light. Pure."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, replace

from orchestrator.history.likeness import Likenesses
from orchestrator.history.observations import SAME_SHAPE, SAME_STAGE, Expected, Observations
from orchestrator.schema import Demand, Stage

MARGIN = 1.25
"""What is asked for is what was measured times this: a run that exceeds what it was given loses what it has done since
its last checkpoint. The largest of nine peaks of one shape (65 MB, in the default study) was 1.22 times the smallest; a
larger model's states, which don't scatter, make that less."""

_KEPT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The most that `runs` of `basis` (the same stage, or stages of its shape) took of a device, and of the host in all
    (0: unknown) [bytes]."""

    memory_bytes: int
    host_memory_bytes: int
    runs: int
    basis: str


@dataclass(slots=True)
class _Most:
    memory_bytes: int = 0
    host_memory_bytes: int = 0
    runs: int = 0
    least_bytes: int = 0
    least_host_bytes: int = 0

    def take_in(self, memory_bytes: int, host_memory_bytes: int, whole: bool) -> bool:
        """Whether what is to be asked for changes by it."""
        before = self.memory_bytes, self.host_memory_bytes, self.least_bytes, self.least_host_bytes
        self.memory_bytes = max(self.memory_bytes, memory_bytes)
        self.host_memory_bytes = max(self.host_memory_bytes, host_memory_bytes)
        if whole:
            self.least_bytes = self.least_host_bytes = 0
        return before != (self.memory_bytes, self.host_memory_bytes, self.least_bytes, self.least_host_bytes)


class MemoryUse:
    """Peaks by likeness; stages on another number of devices are others.

    Shapes that were never measured are not guessed from their neighbours when something is asked for: too little costs
    a run its progress. What the neighbours took is `expected`.
    """

    def __init__(self) -> None:
        self._likenesses = Likenesses()
        self._most: OrderedDict[Hashable, _Most] = OrderedDict()
        self._running: set[str] = set()
        self._seen = Observations()

    def observe(
        self,
        bundle_id: str,
        stage: Stage,
        devices: int,
        memory_bytes: int,
        host_memory_bytes: int = 0,
        whole: bool = False,
    ) -> bool:
        """A bundle has been seen to take so much of each device, and of the host in all; `whole`: to its end. Whether
        that changes what its likes ask for."""
        if memory_bytes <= 0:
            return False
        likeness = self._likenesses.of(stage, devices)
        for name in (likeness.key, likeness.shape):
            most = self._most_of(name)
            changed = most.take_in(memory_bytes, host_memory_bytes, whole)
            most.runs += bundle_id not in self._running
        self._running.add(bundle_id)
        self._seen.observe(bundle_id, likeness, 1.0, memory_bytes)
        return changed

    def exceeded(self, stage: Stage, devices: int, demand: Demand) -> None:
        """A run was ended for its memory, and its stage asks for `demand` instead: so shall its likes, until one of
        them has been seen to its end."""
        most = self._most_of(self._likenesses.of(stage, devices).shape)
        most.least_bytes = max(most.least_bytes, demand.memory_bytes)
        most.least_host_bytes = max(most.least_host_bytes, demand.host_memory_bytes)

    def shape(self, stage: Stage, devices: int) -> Hashable:
        """Equal for stages that are thought to take the same."""
        return self._likenesses.of(stage, devices).shape

    def _most_of(self, name: Hashable) -> _Most:
        most = self._most.setdefault(name, _Most())
        self._most.move_to_end(name)
        while len(self._most) > _KEPT:
            self._most.popitem(last=False)
        return most

    def settle(self, bundle_id: str) -> None:
        """The bundle is over: what was observed of it stays."""
        self._running.discard(bundle_id)
        self._seen.settle(bundle_id)

    def peak(self, stage: Stage, devices: int) -> Peak | None:
        """What a stage is known to take on so many devices: the most of its shape, since its next run may be as its
        likes; None if nothing of its shape was ever measured."""
        if not self._most:
            return None
        likeness = self._likenesses.of(stage, devices)
        most, own = self._most.get(likeness.shape), self._most.get(likeness.key)
        if most is None or not most.runs:
            return None
        alone = own is not None and own.runs == most.runs
        return Peak(
            memory_bytes=most.memory_bytes,
            host_memory_bytes=most.host_memory_bytes,
            runs=most.runs,
            basis=SAME_STAGE if alone else SAME_SHAPE,
        )

    def expected(self, stage: Stage, devices: int) -> Expected | None:
        """The peak that a run will have [bytes of a device], with its interval and what it goes by."""
        return self._seen.expected(self._likenesses.of(stage, devices), 1.0)

    def corrected(self, stage: Stage, demand: Demand) -> Demand:
        """`demand` as it is after measuring: never less than was measured, never more than that times `MARGIN`."""
        # Nothing is looked up while nothing was measured, as in a simulation of a million stages.
        most = self._most.get(self._likenesses.of(stage, demand.devices).shape) if self._most else None
        if most is None:
            return demand
        memory_bytes = int(most.memory_bytes * MARGIN) or demand.memory_bytes
        host_memory_bytes = int(most.host_memory_bytes * MARGIN) or demand.host_memory_bytes
        return replace(
            demand,
            memory_bytes=max(memory_bytes, most.least_bytes),
            host_memory_bytes=max(host_memory_bytes, most.least_host_bytes),
        )
