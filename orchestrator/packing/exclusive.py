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
        fits = room.fitting(request.demand, share=1.0)
        empty = fits & (room.residents == 0)
        wide_enough = (empty.sum(axis=1) >= request.demand.devices).nonzero()[0]
        if not wide_enough.size:
            break
        row = wide_enough.item(room.first(fits)[wide_enough].argmin())
        columns = empty[row].nonzero()[0][: request.demand.devices]
        placements.append(room.place(request, row, columns.tolist(), share=1.0))
    return placements
