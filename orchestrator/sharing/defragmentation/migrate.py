"""Move residents by checkpoint where the blocked request's wait costs more than they lose.

The *blocked* request is the first in the order of service that finds no room although the cluster has it in all: a
gang, or a large share, among free devices that lie apart. A *move* is a set of residents of one node, or of the nodes
that a gang may span, without which the request fits and which all fit elsewhere, or closer together, at once. It pays
if

    wait of the blocked request otherwise x its devices >= margin x sum of (unsaved_s + restart_s) x devices of each

with devices counted by share. The wait is up to when, by the residents' expected ends, the request would fit anyway; if
nobody can say, nobody moves.

Never moved: who made room or moved `max_moves` times, who holds its devices for less than `min_hold_s`, who is expected
to end before it would have restarted, who trains in a stack. While anybody leaves there is no other move. That
everybody finds a place is asked of the very packing that will serve them, in the order in which they will be served: so
what is freed goes to the blocked request, and nobody who moved waits for others.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from orchestrator.packing import BestFit, PackingPolicy
from orchestrator.packing.policy import spanning
from orchestrator.schema import Demand, FreeDevice, Request, Resident
from orchestrator.sharing.defragmentation.policy import Move
from orchestrator.sharing.preemption.victims import (
    Candidate,
    NodeRoom,
    Victims,
    cheapest_first,
    kinds_by_device,
    least_lost_victims,
    nodes_of,
)
from orchestrator.snapshot import SHARE_UNITS, Room, Snapshot, share_units

# So many sets are tried with the packing in one cycle, to keep it short.
TRIES = 12
# Several nodes that a gang may span count as one of this name.
_SPAN = "span"
_QUICK = BestFit()


def migrate(
    snapshot: Snapshot,
    blocked: Request,
    packing: PackingPolicy,
    *,
    max_moves: int,
    min_hold_s: float,
    restart_s: float,
    margin: float,
) -> Move | None:
    """The cheapest move that pays; None if there is none. Ties: see `sharing.preemption.victims`."""
    demand, room, residents = blocked.demand, snapshot.room, snapshot.residents
    if not demand.devices or not _has_room_in_all(room, demand) or any(r.stopping for r in residents):
        return None
    candidates = _candidates(snapshot, max_moves, min_hold_s, restart_s)
    if not candidates:
        return None
    wait_s = _wait_s(snapshot, demand)
    if wait_s is None:
        return None
    saved = wait_s * demand.devices * demand.share
    affordable = [candidate for candidate in candidates if margin * candidate.work_lost <= saved]
    search = _Search(snapshot, blocked, packing, saved / margin if margin else float("inf"))
    victims = search.cheapest(affordable)
    return None if victims is None else _move(blocked, victims, wait_s)


def _has_room_in_all(room: Room, demand: Demand) -> bool:
    """Whether as much is free of all devices that would do together."""
    there = room.exists
    if demand.models:
        there = there & np.isin(room.model, [room.model_code(model) for model in demand.models])
    return int(room.share[there].sum()) >= demand.devices * share_units(demand.share)


def _candidates(snapshot: Snapshot, max_moves: int, min_hold_s: float, restart_s: float) -> list[Candidate]:
    """The residents that may be moved, cheapest first."""
    node_of = {device.device_id: device.node_id for devices in snapshot.room.devices for device in devices}
    at = snapshot.at
    return cheapest_first(
        [
            Candidate(
                resident=resident,
                node_id=nodes_of(resident.placement, node_of)[0],
                work_lost=len(resident.placement.device_ids)
                * resident.placement.share
                * (resident.unsaved_s + restart_s),
                held_s=at - resident.opened_at,
            )
            for resident in snapshot.residents
            if resident.placement.device_ids
            and not resident.placement.stack_id
            and resident.request.preemptions < max_moves
            and at - resident.opened_at >= min_hold_s
            and (resident.expected_end_at is None or resident.expected_end_at > at + restart_s)
        ]
    )


def _wait_s(snapshot: Snapshot, demand: Demand) -> float | None:
    """How long until the demand fits if nobody moves [s], by the residents' expected ends; None if nobody can say."""
    room = snapshot.room
    leaving = sorted(
        (resident.expected_end_at, resident.bundle_id, resident)
        for resident in snapshot.residents
        if resident.expected_end_at is not None
    )
    left: list[Resident] = []
    with _vacated(room, left):
        for end_at, _, resident in leaving:
            _give_back(room, resident)
            left.append(resident)
            rows = list({room.cell_of[d][0] for d in resident.placement.device_ids if d in room.cell_of})
            if room.fitting_nodes(demand, rows).any() or spanning(room, demand) is not None:
                return max(0.0, end_at - snapshot.at)
    return None


class _Search:
    """Looks for the cheapest set whose move makes room and pays. most_lost: what may be lost at most
    [device-seconds]."""

    def __init__(self, snapshot: Snapshot, blocked: Request, packing: PackingPolicy, most_lost: float) -> None:
        self._snapshot = snapshot
        self._blocked = blocked
        self._packing = packing
        self._most_lost = most_lost
        self._kinds = kinds_by_device(snapshot.residents)
        self._tries = 0

    def cheapest(self, candidates: Sequence[Candidate]) -> Victims | None:
        """On one node, else on those that the gang may span."""
        demand = self._blocked.demand
        nodes = {node_id: self._node_room((node_id,)) for node_id in {c.node_id: None for c in candidates}}
        found = least_lost_victims(nodes, candidates, demand, self._everybody_fits)
        if found is not None or demand.max_nodes < 2:
            return found
        span = self._span(candidates)
        on_span = [replace(c, node_id=_SPAN) for c in candidates if c.node_id in span]
        return least_lost_victims({_SPAN: self._node_room(span)}, on_span, demand, self._everybody_fits)

    def _node_room(self, node_ids: Sequence[str]) -> NodeRoom:
        """What is free on nodes that count as one."""
        room = self._snapshot.room
        rows = [room.row_of[node_id] for node_id in node_ids]
        devices = [
            FreeDevice(
                device=device,
                free_share=room.share.item(room.cell_of[device.device_id]) / SHARE_UNITS,
                free_memory_bytes=room.memory_bytes.item(room.cell_of[device.device_id]),
                residents=room.residents.item(room.cell_of[device.device_id]),
            )
            for row in rows
            for device in room.devices[row]
        ]
        return NodeRoom(
            devices,
            cpus=sum(room.milli_cpus.item(row) for row in rows) / 1000,
            host_memory_bytes=sum(room.host_memory_bytes.item(row) for row in rows),
            kinds=self._kinds,
            barred=room.conflicts,
        )

    def _span(self, candidates: Sequence[Candidate]) -> tuple[str, ...]:
        """The nodes with most devices that fit now or hold none but candidates; ties: the smallest id."""
        room, demand = self._snapshot.room, self._blocked.demand
        movable = {device_id for c in candidates for device_id in c.resident.placement.device_ids}
        fits = room.fitting(demand).sum(axis=1)
        counts = [
            (-int(fits[row]) - sum(d.device_id in movable for d in devices), room.nodes[row].node_id)
            for row, devices in enumerate(room.devices)
        ]
        return tuple(node_id for _, node_id in sorted(counts)[: demand.max_nodes])

    def _everybody_fits(self, victims: Victims) -> bool:
        """Whether, with these gone, the packing places the blocked request and then all of them again, for a loss that
        is worth it."""
        if sum(victim.work_lost for victim in victims) > self._most_lost or self._tries >= TRIES:
            return False
        self._tries += 1
        residents = [victim.resident for victim in victims]
        asking = [self._blocked, *_in_turn(residents)]
        bundle_ids = {resident.bundle_id for resident in residents}
        staying = tuple(r for r in self._snapshot.residents if r.bundle_id not in bundle_ids)
        room = self._snapshot.room
        with _vacated(room, residents):
            for resident in residents:
                _give_back(room, resident)
            then = self._snapshot.but(queue=tuple(asking), residents=staying)
            # The packing has the last word; what costs less to ask says no first.
            return all(len(packing(then, asking)) == len(asking) for packing in (_QUICK, self._packing))


def _in_turn(residents: Sequence[Resident]) -> list[Request]:
    """The requests of those that moved: the largest first, then by arrival."""
    requests = [resident.request for resident in residents]
    return sorted(requests, key=lambda r: (-r.demand.devices * r.demand.share, r.queued_at, r.stage_key))


def _give_back(room: Room, resident: Resident) -> None:
    room.give_back(resident.placement, resident.request.demand.kind)


@contextmanager
def _vacated(room: Room, left: Sequence[Resident]) -> Iterator[None]:
    """Whoever is in `left` at the end sits down again."""
    try:
        yield
    finally:
        for resident in left:
            room.take(resident.placement, resident.request.demand.kind)


def _move(blocked: Request, victims: Victims, wait_s: float) -> Move:
    residents = [victim.resident for victim in victims]
    lost = sum(victim.work_lost for victim in victims)
    return Move(
        bundle_ids=tuple(resident.bundle_id for resident in residents),
        for_stage_key=blocked.stage_key,
        stage_keys=(blocked.stage_key, *(request.stage_key for request in _in_turn(residents))),
        reason=(
            f"moves so that a run of study {blocked.study_id} finds {blocked.demand.devices} device(s) together: it "
            f"would wait {wait_s:.0f} s more; {lost:g} device-seconds are lost by moving"
        ),
    )
