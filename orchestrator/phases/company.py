"""Company for those who could have some, while whoever is first in line can't be it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.packing import PackingPolicy
from orchestrator.schema import Demand, Placement, Request
from orchestrator.snapshot import Room, Snapshot, share_units
from orchestrator.snapshot.room import Mask


@dataclass(frozen=True, slots=True)
class BesideBarred:
    """Any packing policy, and behind it: a part of a device that those who are served first are barred from, by who
    sits there, goes to the next one who isn't, if each of them will fit beside it once that one has left. So an RL
    trial gets the other half of a device with an SFT trial on it, though another SFT trial waits in front of it, and
    that one loses nothing of any device: it may sit beside either.

    Whoever asks for less or more than a part of one device is never passed over.
    """

    packing: PackingPolicy

    def __call__(self, snapshot: Snapshot, requests: Sequence[Request]) -> Sequence[Placement]:
        placed = self.packing(snapshot, requests)
        if not snapshot.room.conflicts:
            return placed
        return [*placed, *_company(snapshot.room, requests, placed)]


def _company(room: Room, requests: Sequence[Request], placed: Sequence[Placement]) -> list[Placement]:
    keys, found = {placement.stage_key for placement in placed}, []
    passed: list[Demand] = []
    kind_of = {request.stage_key: request.demand.kind for request in requests if request.stage_key in keys}
    for placement in placed:
        room.take(placement, kind_of[placement.stage_key])
    with room.attempt():
        for request in requests:
            demand = request.demand
            if request.stage_key in keys:
                continue
            if demand.devices != 1 or demand.share >= 1.0:
                break
            if passed:
                where = np.argwhere(_fits(room, demand) & _barred_to_all(room, passed, demand))
                if len(where):
                    row, column = where[0].tolist()
                    found.append(room.place(request, ((row, (column,)),)))
                    continue
            passed.append(demand)
            if not _barred(room, demand).any():
                break
    for placement in placed:
        room.give_back(placement, kind_of[placement.stage_key])
    return found


def _fits(room: Room, demand: Demand) -> Mask:
    fits: Mask = room.fitting(demand) & room.node_fits(demand)[:, None]
    return fits


def _barred(room: Room, demand: Demand) -> Mask:
    """The devices where somebody sits whom the demand may not sit beside."""
    bits = sum({room.kind_bit(kind) for kind in room.conflicts.get(demand.kind, ())})
    barred: Mask = (room.kinds & bits) != 0
    return barred


def _barred_to_all(room: Room, passed: Sequence[Demand], newcomer: Demand) -> Mask:
    """The devices that all of `passed` are barred from, and on which each would have room beside the newcomer."""
    open_to: Mask = room.exists.copy()
    given = np.maximum(newcomer.memory_bytes, newcomer.share * room.whole_memory_bytes)
    for demand in passed:
        fit = share_units(demand.share) + share_units(newcomer.share) <= share_units(1.0)
        friends = newcomer.kind not in room.conflicts.get(demand.kind, ())
        if not (fit and friends):
            open_to[:] = False
            break
        open_to &= _barred(room, demand) & (room.whole_memory_bytes - given >= demand.memory_bytes)
    return open_to
