"""One bundle per device: the null policy of sharing."""

from collections.abc import Sequence

from orchestrator.packing.room import Room
from orchestrator.schema import FreeDevice, Placement, Request


def exclusive(devices: Sequence[FreeDevice], requests: Sequence[Request]) -> Sequence[Placement]:
    """The first empty devices of the first node that has enough; each bundle holds its devices whole.

    Stops at the first request that doesn't fit, so that a gang never starves behind smaller requests. Ties: the
    devices' own order.
    """
    room = Room(devices)
    placements: list[Placement] = []
    for request in requests:
        wanted = request.demand.devices
        free = ([i for i in indexes if room.is_empty(i)] for _, indexes in room.fitting(request, share=1.0))
        chosen = next((indexes[:wanted] for indexes in free if len(indexes) >= wanted), None)
        if chosen is None:
            break
        placements.append(room.place(request, chosen, share=1.0))
    return placements
