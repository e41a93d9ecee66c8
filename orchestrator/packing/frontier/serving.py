"""How a queue is served: who of those that wait goes next, and onto which place."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from random import Random

import numpy as np

from orchestrator.packing.frontier.company import cost_beside
from orchestrator.packing.frontier.reservation import Reservation, reserve
from orchestrator.packing.frontier.scores import NOWHERE, Scores
from orchestrator.packing.policy import spanning
from orchestrator.schema import Demand, Placement, Request
from orchestrator.snapshot import SHARE_UNITS, Snapshot, Spot, share_units

# A part of a device costs so much less on a free one, at most, while devices in use have little left.
_DISCOUNT = 0.06 * SHARE_UNITS
# More than any place costs: with so much taken off, the best place is on a free device if there is any.
_FAR = 1 << 40


class Serving:
    """One call of the policy. Every way to serve starts from the room as it is and leaves it so."""

    def __init__(self, snapshot: Snapshot, scores: Scores, spread: float, *, apart: bool) -> None:
        self._snapshot = snapshot
        self._room = snapshot.room
        self._scores = scores
        self._spread = spread
        self._apart = apart
        self._reservation: Reservation | None = None
        self._kept: Reservation | None = None
        self._kept_for: str | None = None
        # Whether all that wait are expected to find room.
        self._roomy = False
        # Demands that fit nowhere any more: room only gets less.
        self._nowhere: set[Demand] = set()

    # --- ways --------------------------------------------------------------------------------------------------------

    def apart(self, requests: Iterable[Request]) -> list[Placement]:
        """Who comes first is served first, who doesn't fit is passed over, and nobody has company who need not have
        it, see `_alone`: for when all that wait are expected to find room."""
        with self._room.attempt():
            self._start()
            self._roomy = True
            return self._one_by_one(requests)

    def least_waste(self, requests: Sequence[Request], look_ahead: int, hold: int = 0) -> list[Placement]:
        """Of the first `look_ahead` that wait that one goes next whose place costs least beyond what it uses, until
        only `hold` wait or nobody fits any more."""
        with self._room.attempt():
            self._start()
            return self._by_waste(list(requests), look_ahead, hold)

    def best(self, requests: Sequence[Request], look_ahead: int, tries: int) -> list[Placement]:
        """The best way to serve; where all that wait find room, the same with less company, see `_alone`."""
        best = self._best(requests, look_ahead, tries)
        if len(best) < len(requests) or not self._apart:
            return best
        by_key = {request.stage_key: request for request in requests}
        alone = self.apart([by_key[placement.stage_key] for placement in best])
        return alone if len(alone) == len(best) else best

    def _best(self, requests: Sequence[Request], look_ahead: int, tries: int) -> list[Placement]:
        """The way that places most device share: by waste or in order; a queue of up to `look_ahead` of one priority
        also the largest first, gangs for one node first, and in `tries` more orders, see `_improved`. The first request
        has its turn before all others, unless it has only just come.
        """
        first, rest = requests[:1], requests[1:]
        if requests[0].queued_at >= self._snapshot.at:
            first, rest = requests[:0], requests
        best = self._tried(first, lambda: self._by_priority(rest, look_ahead))
        if len(best) == len(requests):
            return best
        best = max(best, self._tried(first, partial(self._one_by_one, rest)), key=_share)
        if not best or len(rest) > look_ahead or len({request.priority for request in rest}) > 1:
            return best
        for key in (_largest, _gangs_of_one_node):
            best = max(best, self._tried(first, partial(self._one_by_one, sorted(rest, key=key))), key=_share)
        return self._improved(best, first, rest, tries)

    def _improved(
        self, best: list[Placement], first: Sequence[Request], rest: Sequence[Request], tries: int
    ) -> list[Placement]:
        """As the best way so far, but for one that was left out and now comes first, the largest first; once none is
        left to come first, by size again and again, with each size off by up to a half of itself."""
        tried: set[Demand] = set()
        by_key = {request.stage_key: request for request in rest}
        random = Random(0)
        for _ in range(tries):
            served = [placement.stage_key for placement in best if placement.stage_key in by_key]
            others = [request for request in rest if request.stage_key not in {*served}]
            late = min((r for r in others if r.demand not in tried and r.demand.devices), key=_largest, default=None)
            if late is not None:
                tried.add(late.demand)
                order = [late, *(by_key[key] for key in served), *(other for other in others if other is not late)]
            else:
                order = sorted(rest, key=lambda request: _largest(request) * random.uniform(0.5, 1.5))
            found = self._tried(first, partial(self._one_by_one, order))
            if _share(found) > _share(best):
                best = found
                tried.clear()
            if len(best) == len(first) + len(rest):
                break
        return best

    def _tried(self, first: Sequence[Request], serve: Callable[[], list[Placement]]) -> list[Placement]:
        """What would be placed."""
        with self._room.attempt():
            self._start()
            placements = self._one_by_one(first)
            if first and not placements:
                # Whether it fits is the same in every way, and so is what is kept for it.
                if self._kept_for != first[0].stage_key:
                    self._kept_for, self._kept = first[0].stage_key, reserve(self._snapshot, first[0])
                self._reservation = self._kept and replace(self._kept, then=self._kept.then.copy())
            return placements + serve()

    def _one_by_one(self, requests: Iterable[Request]) -> list[Placement]:
        return [placement for request in requests if (placement := self._place(request)) is not None]

    def _by_priority(self, requests: Sequence[Request], look_ahead: int) -> list[Placement]:
        """By waste among those of one priority, in order of the priorities."""
        placements: list[Placement] = []
        start = 0
        for end in range(1, len(requests) + 1):
            if end == len(requests) or requests[end].priority != requests[start].priority:
                placements += self._by_waste(list(requests[start:end]), look_ahead, 0)
                start = end
        return placements

    def _by_waste(self, waiting: Sequence[Request], look_ahead: int, hold: int) -> list[Placement]:
        placements: list[Placement] = []
        window: dict[Demand, list[Request]] = {}
        coming = iter(waiting)
        while len(waiting) - len(placements) > hold:
            for request in islice(coming, look_ahead - sum(map(len, window.values()))):
                window.setdefault(request.demand, []).append(request)
            if not window:
                break
            next_one = self._next(window)
            if next_one is None:
                window.clear()
                continue
            alike = window[next_one.demand]
            placement = self._place(next_one)
            # Who doesn't fit leaves the window with all that ask for the same.
            fits = placement is not None
            if placement is not None:
                placements.append(placement)
                alike.remove(next_one)
            if not alike or not fits:
                del window[next_one.demand]
        return placements

    def _next(self, window: dict[Demand, list[Request]]) -> Request | None:
        """Whose place costs least beyond what it uses, the earliest of equals; None if all fit nowhere."""
        demands = list(window)
        costs = self._scores.costs(demands, self._discount())
        uses = np.array([_uses(demand) for demand in demands])
        spans = np.array([demand.max_nodes > 1 and demand not in self._nowhere for demand in demands])
        # A gang that fits on no single node may fit on several, but is the last to try it.
        waste = np.where(costs < NOWHERE, costs - uses, np.where(spans, NOWHERE - 1, NOWHERE))
        number = int(waste.argmin())
        return None if waste[number] == NOWHERE else window[demands[number]][0]

    # --- places ------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._nowhere = set()
        self._reservation = None
        self._roomy = False

    def _place(self, request: Request) -> Placement | None:
        demand = request.demand
        if demand in self._nowhere:
            return None
        spot = self._spot(request)
        if spot is None:
            if self._reservation is None:
                self._nowhere.add(demand)
            return None
        placement = self._room.place(request, spot)
        if self._reservation is not None:
            self._reservation.take(placement, request)
        return placement

    def _spot(self, request: Request) -> Spot | None:
        demand, reservation = request.demand, self._reservation
        discount = self._discount()
        found = self._scores.best(demand, discount)
        if found is not None and self._roomy and self._apart:
            found = self._alone(demand, discount, found)
        if found is not None and reservation is not None and not reservation.allows(request, found[1]):
            found = self._scores.best(demand, discount, reservation.rows)
        if found is not None:
            return found[1]
        spot = spanning(self._room, demand)
        if spot is not None and reservation is not None and not reservation.allows(request, spot):
            return None
        return spot

    def _alone(self, demand: Demand, discount: int, found: tuple[int, Spot]) -> tuple[int, Spot]:
        """A free device in place of company, where what they are expected to lose by each other costs more than it
        takes of those who may come. Nobody waits, so that those count by the chance that there will be no free device
        when they come: more or less the part of the devices that is in use."""
        ((row, columns), *_) = found[1]
        lost = cost_beside(self._room, demand, (row, columns[0])) if demand.devices == 1 else 0.0
        free = self._scores.best(demand, _FAR) if lost else None
        if free is None or free[0] > 0:
            return found
        used = 1.0 - self._scores.open_rests()[1] / self._room.device_count
        return free if free[0] + _FAR - discount < found[0] + lost / used else found

    def _discount(self) -> int:
        """What a part of a device costs less on a free one: the less, the more the rests of those in use are worth."""
        rests, free = self._scores.open_rests()
        full = self._spread * self._room.device_count * SHARE_UNITS
        if full <= 0:
            return 0
        return int(_DISCOUNT * min(1.0, max(0.0, 4 * (self._spread * free * SHARE_UNITS - rests) / full)))


def _uses(demand: Demand) -> int:
    """The device share that it takes [SHARE_UNITS]."""
    return demand.devices * share_units(demand.share)


def _gangs_of_one_node(request: Request) -> tuple[bool, bool, float]:
    """Gangs, those that may not reach over nodes first, then the others, the largest first."""
    demand = request.demand
    return demand.devices < 2, demand.max_nodes > 1, _largest(request)


def _share(placements: Sequence[Placement]) -> int:
    """The device share that is placed [SHARE_UNITS]."""
    return sum(len(placement.device_ids) * share_units(placement.share) for placement in placements)


def _largest(request: Request) -> float:
    return -request.demand.devices * request.demand.share
