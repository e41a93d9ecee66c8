"""What a packing policy is, and the way in which most of them serve a queue.

A policy is a pure function from a snapshot and the admitted requests, in order of service, to placements. What it keeps
in the room's `cache` makes it faster and changes no answer. Serving *in order* stops at the first request that doesn't
fit, so that a gang never starves behind smaller requests.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from orchestrator.schema import Demand, Placement, Request
from orchestrator.snapshot import Room, Snapshot, Spot, milli_cpus

PackingPolicy = Callable[[Snapshot, Sequence[Request]], Sequence[Placement]]
# Where one demand goes by a policy's taste; None if it fits nowhere.
Choice = Callable[[Room, Demand], Spot | None]


def in_order(
    snapshot: Snapshot, requests: Iterable[Request], choose: Choice, *, whole: bool = False
) -> list[Placement]:
    """Place request after request where `choose` says, up to the first that fits nowhere; with `whole`, each is asked
    about as if it asked for whole devices, and gets them."""
    placements: list[Placement] = []
    room = snapshot.room
    with room.attempt():
        for request in requests:
            demand = replace(request.demand, share=1.0) if whole else request.demand
            spot = choose(room, demand) or spanning(room, demand)
            if spot is None:
                break
            placements.append(room.place(request, spot, whole=whole))
    return placements


def spanning(room: Room, demand: Demand) -> Spot | None:
    """Devices on several nodes for a gang that may reach over them and fits on none: the fewest nodes, those with the
    most fitting devices first; ties: the node with the smallest id, and on a node the first devices. None if there are
    too few."""
    if demand.max_nodes < 2 or demand.devices < 2:
        return None
    fits = room.fitting(demand)
    counts = fits.sum(axis=1)
    for has, wanted in (
        (room.milli_cpus, milli_cpus(demand.cpus)),
        (room.host_memory_bytes, demand.host_memory_bytes),
    ):
        if wanted:
            # So many devices' parts of what is wanted does the node have: never more than all of it.
            counts = np.minimum(counts, np.minimum(has, wanted) * demand.devices // wanted)
    spot: list[tuple[int, tuple[int, ...]]] = []
    missing = demand.devices
    for row in np.argsort(-counts, kind="stable")[: demand.max_nodes].tolist():
        columns = fits[row].nonzero()[0][: min(missing, int(counts[row]))].tolist()
        if not columns:
            break
        spot.append((row, tuple(columns)))
        missing -= len(columns)
        if not missing:
            return tuple(spot)
    return None
