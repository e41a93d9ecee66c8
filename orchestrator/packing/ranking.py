"""How most policies choose: of the nodes that fit the one that ranks first, and on it some of the devices that fit.

What each node ranks at for a demand is kept in the room and asked anew for the nodes that changed only. A question
costs what has changed since the same demand was last asked about, and the logarithm of how many nodes there are.
"""

from collections.abc import Callable, Hashable
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt

from orchestrator.packing.least import Least
from orchestrator.schema import Demand
from orchestrator.snapshot import ALL_ROWS, NO_LIMIT, SHARE_UNITS, Room, Rows, Spot

Index = npt.NDArray[np.intp]
Ranks = npt.NDArray[np.float64]
# What nodes rank at, the lower the sooner: float64 [rows]. It is asked about nodes that the demand fits on.
Rank = Callable[[Room, Demand, Index], Ranks]
# Which devices of a node that fits, by their columns.
Devices = Callable[[Room, Demand, int], tuple[int, ...]]

NOWHERE = np.inf
# So many nodes are ranked at once, so that what is worked out on the way stays in the processor's cache.
_BLOCK = 128
# So many ranks of nodes are kept in a room by one rule; beyond that the demand that came first is forgotten.
_KEPT = 4_000_000


def first_ranked(room: Room, demand: Demand, rule: Hashable, rank: Rank, devices: Devices) -> Spot | None:
    """The node with the least rank, and devices on it; None if the demand fits on no single node.

    `rule` stands for everything that `rank` depends on besides the room and the demand. Ties: the node with the
    smallest id.
    """
    row = kept(room, rule, demand, lambda: Ranking(room, demand, rank)).first()
    if row is None:
        return None
    return ((row, devices(room, demand, row) if demand.devices else ()),)


class Ranking:
    """What every node ranks at for one demand."""

    def __init__(self, room: Room, demand: Demand, rank: Rank) -> None:
        self._room = room
        self._demand = demand
        self._rank = rank
        self._least = Least(len(room.nodes))
        self._ranks: Ranks = self._least.values
        self._seen = -1

    def now(self) -> Ranks:
        """The ranks of all nodes as the room is now, `NOWHERE` where the demand doesn't fit: float64 [nodes]."""
        room = self._room
        changed = room.changed_since(self._seen) if self._seen >= 0 else None
        self._seen = room.revision
        if changed is None:
            self._ask(ALL_ROWS)
            self._least.changed(None)
        elif changed:
            self._ask(changed)
            self._least.changed(changed)
        return self._ranks

    def first(self) -> int | None:
        """The row of the node that ranks first; None if the demand fits nowhere."""
        ranks = self.now()
        if not ranks.size:
            return None
        row = self._least.first()
        return None if ranks[row] == NOWHERE else row

    def _ask(self, rows: Rows) -> None:
        fits = self._room.fitting_nodes(self._demand, rows)
        self._ranks[rows] = NOWHERE
        self._rank_all(fits.nonzero()[0] if isinstance(rows, slice) else np.asarray(rows)[fits])

    def _rank_all(self, fitting: Index) -> None:
        for start in range(0, fitting.size, _BLOCK):
            block = fitting[start : start + _BLOCK]
            self._ranks[block] = self._rank(self._room, self._demand, block)


AnyRanking = TypeVar("AnyRanking", bound=Ranking)


def kept(room: Room, rule: Hashable, demand: Demand, make: Callable[[], AnyRanking]) -> AnyRanking:
    """The ranking of the nodes for a demand by a rule, as it was when it was last asked; made if there is none."""
    rankings: dict[Demand, AnyRanking] = room.cache.setdefault(rule, {})
    found = rankings.get(demand)
    if found is None:
        while rankings and len(rankings) * len(room.nodes) > _KEPT:
            del rankings[next(iter(rankings))]
        found = rankings[demand] = make()
    return found


def tightest(room: Room, demand: Demand, row: int) -> tuple[int, ...]:
    """Of the node's devices that fit those with the least share left, then the least memory left. Ties: the device with
    the smallest index."""
    columns = fitting_columns(room, demand, row)
    if len(columns) > 1:
        order = np.lexsort((room.memory_bytes[row, columns], room.share[row, columns]))[: demand.devices]
        columns = columns[order]
    return tuple(columns.tolist())


def fitting_columns(room: Room, demand: Demand, row: int) -> Index:
    """The columns of the node's devices that fit, by index."""
    return cast(Index, room.fitting(demand, slice(row, row + 1))[0].nonzero()[0])


def most_share(room: Room) -> int:
    """What the node with the most devices has of them when nobody sits there, in SHARE_UNITS."""
    return max(1, int(room.share.shape[1])) * SHARE_UNITS


def most_milli_cpus(room: Room) -> int:
    """The cores, in thousandths, of the node that has the most of those that say how many they have."""
    most: int | None = room.cache.get("most_milli_cpus")
    if most is None:
        said = room.whole_milli_cpus[room.whole_milli_cpus < NO_LIMIT]
        most = room.cache["most_milli_cpus"] = int(said.max(initial=1))
    return most


def share_left(room: Room, rows: Index) -> Ranks:
    """What all devices of a node have left together, as a fraction of `most_share`: float64 [rows]."""
    return cast(Ranks, np.maximum(room.share[rows], 0).sum(axis=1) / most_share(room))


def cpus_left(room: Room, rows: Index) -> Ranks:
    """The cores that a node has left, as a fraction of `most_milli_cpus`: float64 [rows]. A node that doesn't say how
    many it has counts as one without any."""
    said = room.whole_milli_cpus[rows] < NO_LIMIT
    return np.where(said, room.milli_cpus[rows], 0) / most_milli_cpus(room)


def anywhere(room: Room, _: Demand, rows: Index) -> Ranks:
    """All nodes alike."""
    return np.zeros(len(room.milli_cpus[rows]))


def in_percent(merit: Ranks) -> Ranks:
    """The rank of a merit between 0 and 1, cut off to whole percents as the published policies do: more goes first."""
    return -np.floor(100.0 * merit)
