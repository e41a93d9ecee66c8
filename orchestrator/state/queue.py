"""Stages that wait for devices, as requests in order of arrival.

Taking a stage in and out costs the logarithm of how many wait, and a request is made once somebody looks at it: a cycle
that looks at the head of the queue pays for the head.
"""

import itertools
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

from sortedcontainers import SortedList

from orchestrator.schema import Demand, Request
from orchestrator.state.records import StageRecord

if TYPE_CHECKING:
    from orchestrator.state.core import MachineCore

# Requests are made anew when durations have been learned, but not more often than this, and no more than so many of
# them in one cycle: a thousand take up to 50 ms.
_RENEW_S, _RENEW_AT_ONCE = 2.0, 500


class Queue:
    """Stages that wait, by arrival; ties go by the number of the trial that would lead, then to who came first.

    `demands` counts what those that wait ask for.
    """

    def __init__(self, core: "MachineCore") -> None:
        self._core = core
        # (queued_at, number, came, record): no two have the same first three.
        self._waiting: Any = SortedList()
        self._came = itertools.count()
        self._learned = -1
        self._renewed_at = float("-inf")
        self._stale: deque[StageRecord] = deque()
        self.demands: dict[Demand, int] = {}
        # Of the demands that wait: those nobody has asked about yet, and those that no node can meet.
        self._new: set[Demand] = set()
        self._impossible: set[Demand] = set()
        self._asked_of_nodes = -1

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, record: StageRecord) -> None:
        """The stage waits, or who waits for it has changed."""
        came = record.place[2] if record.place is not None else next(self._came)
        self.remove(record)
        self._put(record, (record.queued_at, self._core.trials[record.waiters[0]].number, came))

    def _put(self, record: StageRecord, place: tuple[float, int, int]) -> None:
        record.place = place
        self._waiting.add((*place, record))
        waiting = self.demands.get(record.demand, 0)
        self.demands[record.demand] = waiting + 1
        if not waiting:
            self._new.add(record.demand)

    def remove(self, record: StageRecord) -> None:
        """The stage waits no more; one that did not is fine."""
        record.request = None
        if record.place is None:
            return
        self._waiting.remove((*record.place, record))
        record.place = None
        left = self.demands[record.demand] - 1
        if left:
            self.demands[record.demand] = left
        else:
            del self.demands[record.demand]
            self._new.discard(record.demand)
            self._impossible.discard(record.demand)

    def impossible(self) -> Collection[Demand]:
        """The demands that wait and that no node here can ever meet."""
        if self._asked_of_nodes != self._core.room.nodes_revision:
            self._asked_of_nodes = self._core.room.nodes_revision
            self._impossible.clear()
            self._new.update(self.demands)
        self._impossible.update(demand for demand in self._new if self._core.feasibility.why_never(demand))
        self._new.clear()
        return self._impossible

    def ask(self, record: StageRecord, demand: Demand) -> None:
        """The stage asks for something else from now on; if it waits, it keeps its place."""
        if demand == record.demand:
            return
        place = record.place
        self.remove(record)
        record.demand = demand
        if place is not None:
            self._put(record, place)

    def renew(self, at: float) -> None:
        """Have requests made anew by what has been learned of durations up to `at`, a part of them in each call."""
        revision = self._core.durations.revision
        if revision != self._learned and at - self._renewed_at >= _RENEW_S and not self._stale:
            self._learned, self._renewed_at = revision, at
            self._stale = deque(self.records())
        for _ in range(min(_RENEW_AT_ONCE, len(self._stale))):
            self._stale.popleft().request = None

    def request(self, record: StageRecord) -> Request:
        """What a stage asks for."""
        if record.request is None:
            record.request = self._core.request_of(record)
        return record.request

    def records(self) -> Iterator[StageRecord]:
        """By arrival."""
        return (record for _, _, _, record in self._waiting)


class WaitingRequests(Sequence[Request]):
    """The queue as policies see it. It is the living one: who goes through it half-way, and lets others change it, is
    at nobody's place any more. `without`: demands that are passed over."""

    def __init__(self, queue: Queue, without: Collection[Demand] = ()) -> None:
        self._queue = queue
        self._without = without

    def __len__(self) -> int:
        return len(self._queue) - sum(self._queue.demands.get(demand, 0) for demand in self._without)

    def __iter__(self) -> Iterator[Request]:
        for record in self._queue.records():
            if not self._without or record.demand not in self._without:
                yield record.request or self._queue.request(record)

    @overload
    def __getitem__(self, index: int) -> Request: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Request]: ...

    def __getitem__(self, index: int | slice) -> Request | Sequence[Request]:
        if isinstance(index, slice):
            return tuple(itertools.islice(self, *index.indices(len(self))))
        found = next(itertools.islice(self, index if index >= 0 else len(self) + index, None), None)
        if found is None:
            raise IndexError(index)
        return found
