"""Which nodes are alike: what is worked out for one of them holds for all."""

import numpy as np

from orchestrator.packing.ranking import Index
from orchestrator.snapshot import Counts, Room

# So many kinds of nodes are remembered for each node that there is; then all are counted anew.
_REMEMBERED = 4


class Alike:
    """Numbers the nodes of a room, so that those with the same devices, cores and host memory, and as much left of
    each, have the same number. Costs what has changed since somebody last asked."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._seen = -1
        self._number: Index = np.zeros(len(room.nodes), np.intp)
        self._numbers: dict[tuple[bytes | int, ...], int] = {}
        whole = room.model, room.exists, room.whole_memory_bytes, room.whole_milli_cpus, room.whole_host_memory_bytes
        said = np.column_stack([table.astype(np.int64) for table in whole])
        self._model: list[bytes] = [row.tobytes() for row in said]

    @staticmethod
    def of(room: Room) -> "Alike":
        """The room's own."""
        alike: Alike = room.cache.get("alike") or Alike(room)
        room.cache["alike"] = alike
        return alike

    def first(self, rows: Index) -> tuple[Index, Index]:
        """The first of each kind of these rows, and for each of the rows which of those is like it."""
        self._look()
        _, first, like = np.unique(self._number[rows], return_index=True, return_inverse=True)
        return rows[first], like

    def _look(self) -> None:
        room = self._room
        changed = room.changed_since(self._seen) if self._seen >= 0 else None
        self._seen = room.revision
        if changed is None or len(self._numbers) > _REMEMBERED * len(room.nodes):
            self._numbers.clear()
            changed = list(range(len(room.nodes)))
        tables: tuple[Counts, ...] = room.share, room.memory_bytes, room.kinds
        for row in changed:
            left = room.milli_cpus.item(row), room.host_memory_bytes.item(row)
            key = self._model[row], *(table[row].tobytes() for table in tables), *left
            self._number[row] = self._numbers.setdefault(key, len(self._numbers))
