"""What is left on each device while a policy fills it: the bookkeeping that every packing policy needs.

Devices lie in arrays of shape [nodes, devices of the largest node]; a node is a row, its devices keep the order they
were given in, and what a smaller node lacks is filled with devices that fit nothing. A gang stays on one node.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from orchestrator.schema import Demand, FreeDevice, Placement, Request

# Shares are sums of decimal fractions; ten of 0.1 must fill one device.
SHARE_TOLERANCE = 1e-9

Mask = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]
Fractions = npt.NDArray[np.float64]
Rows = slice | list[int]
ALL_ROWS = slice(None)


class Room:
    """Free share [fraction], free memory [bytes] and residents by row and column; `position` is where a device stood
    in what was given. `changed` lists the rows that something was placed on, in order."""

    def __init__(self, devices: Sequence[FreeDevice]) -> None:
        rows: dict[str, list[int]] = {}
        for index, free in enumerate(devices):
            rows.setdefault(free.device.node_id, []).append(index)
        self._devices = list(devices)
        shape = len(rows), max(map(len, rows.values()), default=1)
        self._rows = np.arange(len(rows))
        self.position = np.full(shape, len(devices), np.int64)
        for row, indexes in enumerate(rows.values()):
            self.position[row, : len(indexes)] = indexes
        self.share: Fractions = np.array([*(d.free_share for d in devices), -np.inf], np.float64)[self.position]
        self.memory_bytes: Counts = np.array([*(d.free_memory_bytes for d in devices), -1], np.int64)[self.position]
        self.residents: Counts = np.array([*(d.residents for d in devices), 1], np.int64)[self.position]
        self.changed: list[int] = []

    def fitting(self, demand: Demand, share: float, rows: Rows = ALL_ROWS) -> Mask:
        """Which devices of `rows` have `share` and the demanded memory free."""
        fits: Mask = self.share[rows] + SHARE_TOLERANCE >= share
        fits &= self.memory_bytes[rows] >= demand.memory_bytes
        return fits

    def first(self, mask: Mask, rows: Rows = ALL_ROWS) -> Counts:
        """For each row of `mask`, which has one per row of `rows`: where its first device stood in what was given.

        That is also the order of nodes: a node comes where its first fitting device does. Without meaning for a row
        of which nothing fits.
        """
        positions: Counts = self.position[rows]
        firsts: Counts = positions[self._rows[: len(mask)], mask.argmax(axis=1)]
        return firsts

    def place(self, request: Request, row: int, columns: Sequence[int], share: float) -> Placement:
        """Take the room and say so. A share of a device is that share of its memory, or what is asked for if more."""
        at = [(row, column) for column in columns]
        devices = [self._devices[self.position[cell]].device for cell in at]
        in_share = min(int(share * device.memory_bytes) for device in devices)
        free_memory = min(self.memory_bytes.item(cell) for cell in at)
        granted = max(request.demand.memory_bytes, min(in_share, free_memory))
        for cell in at:
            self.share[cell] -= share
            self.memory_bytes[cell] -= granted
            self.residents[cell] += 1
        self.changed.append(row)
        return Placement(
            stage_key=request.stage_key,
            device_ids=tuple(device.device_id for device in devices),
            share=share,
            memory_bytes=granted,
        )
