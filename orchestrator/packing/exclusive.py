"""One bundle per device: the null policy of sharing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.packing.policy import in_order
from orchestrator.packing.ranking import NOWHERE, Index, Ranks, first_ranked, fitting_columns
from orchestrator.schema import Demand, Placement, Request
from orchestrator.snapshot import Room, Snapshot, Spot


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusive:
    """The first empty devices of the first node that has enough; each bundle holds its devices whole.

    Ties: the node with the smallest id, then the device with the smallest index.
    """

    def __call__(self, snapshot: Snapshot, requests: Sequence[Request]) -> Sequence[Placement]:
        return in_order(snapshot, requests, self._choose, whole=True)

    def _choose(self, room: Room, demand: Demand) -> Spot | None:
        return first_ranked(room, demand, self, _empty_enough, _first_empty)


def _empty_enough(room: Room, demand: Demand, rows: Index) -> Ranks:
    if not demand.devices:
        return np.zeros(len(rows))
    empty = room.fitting(demand, rows) & (room.residents[rows] == 0)
    return np.where(empty.sum(axis=1) >= demand.devices, 0.0, NOWHERE)


def _first_empty(room: Room, demand: Demand, row: int) -> tuple[int, ...]:
    columns = fitting_columns(room, demand, row)
    return tuple(columns[room.residents[row, columns] == 0][: demand.devices].tolist())
