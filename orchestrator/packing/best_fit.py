"""The fullest device that still fits, so that whole devices stay free for those that need them."""

from collections.abc import Sequence

from orchestrator.packing.room import Room
from orchestrator.schema import FreeDevice, Placement, Request


def best_fit(devices: Sequence[FreeDevice], requests: Sequence[Request]) -> Sequence[Placement]:
    """Each request goes to the devices with the least share left, then the least memory left.

    A gang takes the node whose chosen devices leave the least share over. Stops at the first request that doesn't
    fit, so that a gang never starves behind smaller requests. Ties: the devices' own order.
    """
    room = Room(devices)
    placements: list[Placement] = []
    for request in requests:
        share, wanted = request.demand.share, request.demand.devices
        best: tuple[tuple[float, int], list[int]] | None = None
        for _, indexes in room.fitting(request, share):
            if len(indexes) < wanted:
                continue
            tightest = sorted(indexes, key=lambda i: (room.free_share(i), room.free_memory_bytes(i)))[:wanted]
            left = sum(room.free_share(i) for i in tightest), sum(room.free_memory_bytes(i) for i in tightest)
            if best is None or left < best[0]:
                best = left, tightest
        if best is None:
            break
        placements.append(room.place(request, best[1], share))
    return placements
