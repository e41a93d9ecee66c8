"""A place for the first request that doesn't fit, so that those behind it don't keep it waiting for ever.

EASY backfilling (Lifka, "The ANL/IBM SP scheduling system", 1995): from when those who sit there are expected to leave
follows the earliest time at which the request fits. Who is served meanwhile is gone by then, or sits on what the
request doesn't need. Where that time is unknown, nobody is served on devices that are kept for the request.
"""

import math
from dataclasses import dataclass

import numpy as np

from orchestrator.packing.policy import spanning
from orchestrator.schema import Demand, Placement, Request
from orchestrator.snapshot import Mask, Room, Snapshot, Spot, milli_cpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """rows: of the nodes that are kept for the request, bool [nodes]. start_at: when it is expected to start; infinite
    if nobody can say. then: the room at that time, with the request in it."""

    at: float
    start_at: float
    rows: Mask
    then: Room

    def allows(self, request: Request, spot: Spot) -> bool:
        """Whether another request may have this place."""
        if not any(self.rows[row] for row, _ in spot):
            return True
        if self._gone_by_then(request):
            return True
        return all(_fits_there(self.then, request.demand, row, columns) for row, columns in spot)

    def take(self, placement: Placement, request: Request) -> None:
        """Another request was placed; does it sit there when the reserved one starts?"""
        if not self._gone_by_then(request):
            self.then.take(placement, request.demand.kind)

    def _gone_by_then(self, request: Request) -> bool:
        return request.expected_s is not None and self.at + request.expected_s <= self.start_at < math.inf


def reserve(snapshot: Snapshot, request: Request) -> Reservation | None:
    """A reservation for a request that fits nowhere now; None if it would fit nowhere even if all left."""
    room, demand = snapshot.room, request.demand
    leaving = sorted(
        (max(resident.expected_end_at, snapshot.at), resident.bundle_id, resident)
        for resident in snapshot.residents
        if resident.expected_end_at is not None
    )
    if leaving:
        then = room.copy()
        for end_at, _, resident in leaving:
            then.give_back(resident.placement, resident.request.demand.kind)
            rows = [then.row_of[node_id] for node_id in {*resident.placement.node_ids} if node_id in then.row_of]
            spot = _spot(then, demand, rows)
            if spot is not None:
                with then.attempt():
                    placement = then.place(request, spot)
                then.take(placement, demand.kind)
                return Reservation(at=snapshot.at, start_at=end_at, rows=_mask(room, spot), then=then)
    return _whenever(snapshot, request)


def _whenever(snapshot: Snapshot, request: Request) -> Reservation | None:
    """Whenever there is room on the node that could host the request and has most devices for it now, the first of
    equals, and there on the devices with most left."""
    room, demand = snapshot.room, request.demand
    empty: Room | None = room.cache.get("frontier, empty")
    if empty is None:
        empty = room.cache["frontier, empty"] = Room(room.nodes)
    able = empty.fitting_nodes(demand)
    then = room.copy()
    if able.any():
        row = int(np.where(able, room.fitting(demand).sum(axis=1), -1).argmax())
        fits = empty.fitting(demand, [row])[0]
        left = np.where(fits, room.share[row], -1)
        columns = np.argsort(-left, kind="stable")[: demand.devices].tolist()
        spot: Spot | None = ((row, tuple(columns)),)
    else:
        spot = spanning(empty, demand)
    if spot is None:
        return None
    for row, columns in spot:
        for table, whole in ((then.share, empty.share), (then.memory_bytes, empty.memory_bytes)):
            table[row, list(columns)] = whole[row, list(columns)]
        then.kinds[row, list(columns)] = 0
        then.milli_cpus[row] = max(then.milli_cpus[row], milli_cpus(demand.cpus))
        then.host_memory_bytes[row] = max(then.host_memory_bytes[row], demand.host_memory_bytes)
    with then.attempt():
        placement = then.place(request, spot)
    then.take(placement, demand.kind)
    return Reservation(at=snapshot.at, start_at=math.inf, rows=_mask(room, spot), then=then)


def _spot(room: Room, demand: Demand, rows: list[int]) -> Spot | None:
    """The first devices that fit on one of the rows, else on several nodes."""
    fitting = room.fitting_nodes(demand, sorted(rows))
    for row, fits in zip(sorted(rows), fitting.tolist(), strict=True):
        if fits:
            columns = room.fitting(demand, [row])[0].nonzero()[0][: demand.devices]
            return ((row, tuple(columns.tolist())),)
    return spanning(room, demand)


def _mask(room: Room, spot: Spot) -> Mask:
    rows: Mask = np.zeros(len(room.nodes), np.bool_)
    rows[[row for row, _ in spot]] = True
    return rows


def _fits_there(room: Room, demand: Demand, row: int, columns: tuple[int, ...]) -> bool:
    fits = room.fitting(demand, [row])[0]
    return bool(room.node_fits(demand, [row])[0]) and all(bool(fits[column]) for column in columns)
