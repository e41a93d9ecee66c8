"""The fullest device that still fits, so that whole devices stay free for those that need them."""

from collections.abc import Sequence

import numpy as np

from orchestrator.packing.room import ALL_ROWS, SHARE_TOLERANCE, Counts, Fractions, Room, Rows
from orchestrator.schema import Demand, FreeDevice, Placement, Request

# From this many devices on, numpy asks one node faster than a loop does. Both give the same answer.
_WIDE = 48


def best_fit(devices: Sequence[FreeDevice], requests: Sequence[Request]) -> Sequence[Placement]:
    """Each request goes to the devices with the least share left, then the least memory left.

    A gang takes the node whose chosen devices leave the least share over. Stops at the first request that doesn't
    fit, so that a gang never starves behind smaller requests. Ties: the devices' own order.
    """
    room = Room(devices)
    by_demand: dict[Demand, _Tightest] = {}
    placements: list[Placement] = []
    for request in requests:
        demand = request.demand
        tightest = by_demand.get(demand)
        if tightest is None:
            tightest = by_demand[demand] = _Tightest(room, demand)
        chosen = tightest.devices()
        if chosen is None:
            break
        placements.append(room.place(request, *chosen, demand.share))
    return placements


class _Tightest:
    """Every node's best answer to one demand. A placement changes one node, so only the nodes that were changed since
    the last question are asked again."""

    def __init__(self, room: Room, demand: Demand) -> None:
        self._room = room
        self._demand = demand
        nodes, self._width = room.share.shape
        self._columns = np.zeros((nodes, min(demand.devices, self._width)), np.int64)
        # What the chosen devices have left (no end of it where there are too few), and where the node's first fitting
        # device stood in what was given: the order of choice.
        self._share = np.full(nodes, np.inf)
        self._memory_bytes = np.zeros(nodes, np.int64)
        self._first = np.zeros(nodes, np.int64)
        self._seen = len(room.changed)
        if demand.devices <= self._width:
            self._ask(ALL_ROWS)

    def devices(self) -> tuple[int, list[int]] | None:
        """The row and the columns of the best devices; None if the demand fits nowhere."""
        self._ask_changed_nodes()
        least = self._share.min(initial=np.inf)
        if least == np.inf:
            return None
        rows = (self._share == least).nonzero()[0]
        if rows.size > 1:
            memory_bytes = self._memory_bytes[rows]
            rows = rows[memory_bytes == memory_bytes.min()]
        row = rows.item(self._first[rows].argmin())
        return row, self._columns[row].tolist()

    def _ask_changed_nodes(self) -> None:
        changed = set(self._room.changed[self._seen :])
        self._seen = len(self._room.changed)
        if self._demand.devices > self._width:
            return
        if self._width < _WIDE and len(changed) <= 4:
            for row in changed:
                self._ask_narrow(row)
        elif len(changed) == 1:
            row = changed.pop()
            self._ask(slice(row, row + 1))
        elif changed:
            self._ask(sorted(changed))

    def _ask_narrow(self, row: int) -> None:
        room, demand = self._room, self._demand
        left = zip(room.share[row].tolist(), room.memory_bytes[row].tolist(), strict=True)
        fitting = [
            (share, memory, column)
            for column, (share, memory) in enumerate(left)
            if share + SHARE_TOLERANCE >= demand.share and memory >= demand.memory_bytes
        ]
        if len(fitting) < demand.devices:
            self._share[row] = np.inf
            return
        self._first[row] = room.position[row, fitting[0][2]]
        fitting.sort()
        chosen = fitting[: demand.devices]
        self._share[row] = sum(share for share, _, _ in chosen)
        self._memory_bytes[row] = sum(memory for _, memory, _ in chosen)
        self._columns[row] = [column for _, _, column in chosen]

    def _ask(self, rows: Rows) -> None:
        room = self._room
        fits = room.fitting(self._demand, self._demand.share, rows)
        share = np.where(fits, room.share[rows], np.inf)
        memory_bytes = room.memory_bytes[rows]
        columns = self._tightest_columns(share, memory_bytes)
        self._columns[rows] = columns
        self._first[rows] = room.first(fits, rows)
        # Summed one by one, from the left: another order would round otherwise and could turn a tie.
        self._share[rows] = np.take_along_axis(share, columns, axis=1).cumsum(axis=1)[:, -1]
        self._memory_bytes[rows] = np.take_along_axis(memory_bytes, columns, axis=1).sum(axis=1)

    def _tightest_columns(self, share: Fractions, memory_bytes: Counts) -> Counts:
        """Of each row the devices with the least share, then memory, then the earliest; shape [rows, wanted]."""
        columns: Counts
        if self._demand.devices > 1:
            columns = np.lexsort((memory_bytes, share), axis=-1)[:, : self._demand.devices]
        else:
            tied = share == share.min(axis=1, keepdims=True)
            columns = np.where(tied, memory_bytes, np.iinfo(np.int64).max).argmin(axis=1, keepdims=True)
        return columns
