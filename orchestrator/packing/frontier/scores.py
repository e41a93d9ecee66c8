"""What each place costs those who come later, for every demand that was asked about and every node.

The *cost* of a place is how much less its node is worth once somebody sits there (see `worth`), plus next to nothing
for what the node still has, so that of equals the fuller one is taken. Once somebody asks about a demand, its costs are
worked out again on the rows that changed since somebody last did; on all of them where something else is expected now.
"""

import numpy as np
import numpy.typing as npt

from orchestrator.packing.frontier.cutting import LEVELS
from orchestrator.packing.frontier.prices import Prices
from orchestrator.packing.frontier.wanted import Wanted, all_wanted
from orchestrator.packing.frontier.worth import MIB, Worth, device_memory_bytes
from orchestrator.schema import Demand
from orchestrator.snapshot import NO_LIMIT, SHARE_UNITS, Counts, Mask, Room, Spot

NOWHERE = np.iinfo(np.int64).max
_UNITS = SHARE_UNITS // LEVELS
# So many costs are kept; beyond that all demands are forgotten.
_KEPT = 8_000_000
# So many costs are worked out at a time.
_BLOCK = 400_000

# What it costs to put somebody on a device that is free, beside what it takes of it.
_OPENING = SHARE_UNITS // 100

Index = npt.NDArray[np.intp]


class Scores:
    """The costs over one room, by one `Worth`."""

    def __init__(self, room: Room, worth: Worth) -> None:
        nodes, shape = len(room.nodes), room.share.shape
        self._room = room
        self._worth = worth
        self._memory_bytes = device_memory_bytes(room)
        self._numbers: dict[Demand, int] = {}
        self._asked: list[Demand] = []
        self._wanted: Wanted | None = None
        # By demand, the revision of the room that its costs are those of; -1 if they are none's.
        self._asked_at = np.zeros(0, np.int64)
        # By demand and node: the least cost of a place, and its column; for a part of a device apart on those that are
        # free altogether.
        self._cost, self._cost_on_free = np.zeros((0, nodes), np.int64), np.zeros((0, nodes), np.int64)
        self._column, self._column_on_free = np.zeros((0, nodes), np.int16), np.zeros((0, nodes), np.int16)
        self._seen = -1
        self._conflicts, self._excess = room.conflicts, room.excess
        # Of each node: the levels of its devices, what their rests are worth and what those who will use them take,
        # how many devices are free altogether, and what it all is worth.
        self._level = np.zeros(shape, np.int64)
        self._rests = np.zeros((3, nodes), np.int64)
        self._whole = np.zeros(nodes, np.int64)
        self._value = np.zeros(nodes, np.int64)
        # By node, what its devices have left.
        self._shares = np.zeros(nodes, np.int64)
        self._prices = Prices(room, worth)
        self._cores_count = room.whole_milli_cpus < NO_LIMIT

    def learn(self, worth: Worth) -> None:
        """From now on by this worth."""
        if worth is not self._worth:
            self._worth = worth
            self._prices.learn(worth)
            self._forget()

    def _forget(self) -> None:
        self._seen = -1
        self._asked_at[:] = -1

    # --- questions ---------------------------------------------------------------------------------------------------

    def best(self, demand: Demand, discount: int = 0, without: Mask | None = None) -> tuple[int, Spot] | None:
        """The place of least cost, and its cost [SHARE_UNITS]; None if the demand fits on no single node.

        discount: taken off where a part of a device goes to one that is free altogether. without: rows to pass over,
        bool [nodes]. Ties: a device in use, then the node with the smallest id, then the device with the smallest
        index.
        """
        if not self._room.nodes:
            return None
        self.refresh()
        number = self._ready([demand]).item()
        cost, row = _least(self._priced(demand, self._cost[number]), without)
        column = self._column.item(number, row)
        if demand.devices == 1:
            on_free, its_row = _least(self._priced(demand, self._cost_on_free[number]), without)
            if on_free < NOWHERE and on_free - discount < cost:
                cost, row, column = on_free - discount, its_row, self._column_on_free.item(number, its_row)
        if cost == NOWHERE:
            return None
        return cost, ((row, (column,) if demand.devices == 1 else self._columns(number, row)),)

    def costs(self, demands: list[Demand], discount: int) -> Counts:
        """What the place of least cost costs each demand [SHARE_UNITS], NOWHERE if it fits on no single node."""
        if not self._room.nodes:
            return np.full(len(demands), NOWHERE)
        self.refresh()
        numbers = self._ready(demands)
        numbered = list(zip(demands, numbers.tolist(), strict=True))
        on_free, cost = (
            np.array([self._priced(demand, table[number]).min() for demand, number in numbered])
            for table in (self._cost_on_free, self._cost)
        )
        least: Counts = np.minimum(cost, np.where(on_free < NOWHERE, on_free - discount, NOWHERE))
        return least

    def _ready(self, demands: list[Demand]) -> Index:
        """The demands' numbers, once their costs are those of the room as it was last looked at."""
        numbers = self._numbered(demands)
        for revision in np.unique(self._asked_at[numbers]).tolist():
            if revision < self._seen:
                late = np.unique(numbers[self._asked_at[numbers] == revision])
                self._ask(late, self._changed_since(revision))
                self._asked_at[late] = self._seen
        return numbers

    def _changed_since(self, revision: int) -> Index:
        changed = self._room.changed_since(revision) if revision >= 0 else None
        return np.arange(len(self._room.nodes)) if changed is None else np.array(sorted(changed), np.intp)

    def open_rests(self) -> tuple[int, int]:
        """What the rests of all devices in use are worth [SHARE_UNITS], and how many devices are free altogether."""
        self.refresh()
        return int(self._rests[0].sum()), int(self._whole.sum())

    def _columns(self, number: int, row: int) -> tuple[int, ...]:
        """The devices of a gang on a node."""
        wanted, rows = self._all().of(np.array([number])), np.array([row])
        chosen = self._chosen(wanted, rows, self._fits(wanted, rows), self._levels_after(wanted, rows))
        return tuple(chosen[0, 0].nonzero()[0].tolist())

    # --- what changed ------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Look at what changed in the room."""
        room = self._room
        if room.conflicts is not self._conflicts or room.excess is not self._excess:
            self._conflicts, self._excess, self._wanted = room.conflicts, room.excess, None
            self._forget()
        if room.revision != self._seen:
            self._look(self._changed_since(self._seen))
            self._seen = room.revision
            self._prices.look(self._shares)

    def _priced(self, demand: Demand, costs: Counts) -> Counts:
        """The costs, [nodes], with what the demand pays beside them."""
        price = self._prices.of(demand)
        if isinstance(price, int):
            return costs
        priced: Counts = np.where(costs < NOWHERE, costs + price, costs)
        return priced

    def _look(self, rows: Index) -> None:
        worth, room = self._worth, self._room
        level = self._levels(room.share[rows], room.memory_bytes[rows], rows)
        self._shares[rows] = np.maximum(room.share[rows], 0).sum(axis=1)
        group = worth.group[rows]
        rests = worth.rests[:, group[:, None], level].sum(axis=2)
        whole = (level == LEVELS).sum(axis=1)
        self._level[rows], self._rests[:, rows], self._whole[rows] = level, rests, whole
        self._value[rows] = self._value_of(group, whole, rests, room.milli_cpus[rows], room.host_memory_bytes[rows])

    def _numbered(self, demands: list[Demand]) -> Index:
        new = [demand for demand in dict.fromkeys(demands) if demand not in self._numbers]
        if new:
            if (len(self._asked) + len(new)) * len(self._room.nodes) > _KEPT:
                self._numbers.clear()
                self._asked.clear()
                self._wanted = None
                self._asked_at[:] = -1
                new = list(dict.fromkeys(demands))
            self._numbers.update(zip(new, range(len(self._asked), len(self._asked) + len(new)), strict=True))
            self._asked += new
            if len(self._asked) > len(self._asked_at):
                self._grow(max(16, len(self._asked)))
        return np.array([self._numbers[demand] for demand in demands], np.intp)

    def _grow(self, more: int) -> None:
        nodes = len(self._room.nodes)
        self._asked_at = np.concatenate([self._asked_at, np.full(more, -1, np.int64)])
        for name, nothing in (("_cost", NOWHERE), ("_column", 0), ("_cost_on_free", NOWHERE), ("_column_on_free", 0)):
            table = getattr(self, name)
            setattr(self, name, np.concatenate([table, np.full((more, nodes), nothing, table.dtype)]))

    # --- costs -------------------------------------------------------------------------------------------------------

    def _all(self) -> Wanted:
        known = 0 if self._wanted is None else len(self._wanted.devices)
        if known < len(self._asked):
            more = all_wanted(self._room, self._asked[known:])
            self._wanted = more if self._wanted is None else self._wanted.and_also(more)
        assert self._wanted is not None, "nobody was asked about"
        return self._wanted

    def _parted(self, numbers: Index) -> tuple[tuple[Index, Wanted], tuple[Index, Wanted]]:
        """Those that want one device, and the others."""
        every = self._all()
        single = every.devices[numbers] == 1
        ones, others = numbers[single], numbers[~single]
        return (ones, every.of(ones)), (others, every.of(others))

    def _ask(self, numbers: Index, rows: Index) -> None:
        singles, others = self._parted(numbers)
        block = max(1, _BLOCK // (len(numbers) * max(1, self._room.share.shape[1])))
        for start in range(0, len(rows), block):
            if singles[0].size:
                self._ask_singles(*singles, rows[start : start + block])
            if others[0].size:
                self._ask_others(*others, rows[start : start + block])

    def _ask_singles(self, numbers: Index, wanted: Wanted, rows: Index) -> None:
        """Each device of each node is a place of its own."""
        room, worth = self._room, self._worth
        if not room.share.shape[1]:
            return
        group, level = worth.group[rows][:, None], self._level[rows]
        opened = level == LEVELS
        after = self._levels_after(wanted, rows)
        without = self._rests[:, rows][:, :, None] - worth.rests[:, group, level]
        value = self._value_of(
            group,
            self._whole[rows][:, None] - opened,
            without[:, None] + worth.rests[:, group, after],
            (room.milli_cpus[rows] - wanted.milli_cpus[:, None])[:, :, None],
            (room.host_memory_bytes[rows] - wanted.host_memory_bytes[:, None])[:, :, None],
        )
        cores, shares = self._left(rows)
        cost = (self._value[rows] + cores)[:, None] + opened * (shares + _OPENING)[:, None] - value
        if wanted.company is not None:
            cost = cost + wanted.company.lost(room, rows, wanted.units)
        cost[~self._fits(wanted, rows)] = NOWHERE
        # Parts on devices that are free altogether are kept apart; whole devices are all of that kind.
        apart = opened & (wanted.units < SHARE_UNITS)[:, None, None]
        at = numbers[:, None], rows
        on_free = np.where(apart, cost, NOWHERE)
        cost[apart] = NOWHERE
        self._cost[at], self._column[at] = cost.min(axis=2), cost.argmin(axis=2)
        self._cost_on_free[at], self._column_on_free[at] = on_free.min(axis=2), on_free.argmin(axis=2)

    def _ask_others(self, numbers: Index, wanted: Wanted, rows: Index) -> None:
        """Gangs, which take the devices that cost least by themselves, and work without devices."""
        room, worth = self._room, self._worth
        group, level = worth.group[rows], self._level[rows]
        after = self._levels_after(wanted, rows)
        chosen = self._chosen(wanted, rows, self._fits(wanted, rows), after)
        gained = worth.rests[:, group[:, None], after] - worth.rests[:, group[:, None], level][:, None]
        cpus = room.milli_cpus[rows] - wanted.milli_cpus[:, None]
        memory = room.host_memory_bytes[rows] - wanted.host_memory_bytes[:, None]
        value = self._value_of(
            group,
            self._whole[rows] - (chosen & (level == LEVELS)).sum(axis=2),
            self._rests[:, rows][:, None] + (gained * chosen).sum(axis=3),
            cpus,
            memory,
        )
        cores, shares = self._left(rows)
        cost = self._value[rows] + cores + shares - value
        enough = (chosen.sum(axis=2) == wanted.devices[:, None]) & (cpus >= 0) & (memory >= 0)
        at = numbers[:, None], rows
        self._cost[at] = np.where(enough, cost, NOWHERE)
        self._cost_on_free[at] = NOWHERE

    def _chosen(self, wanted: Wanted, rows: Index, fits: Mask, after: Counts) -> Mask:
        """The devices that cost least by themselves, as many as are wanted; ties: the smallest index."""
        group, level, rest = self._worth.group[rows][:, None], self._level[rows], self._worth.rests[0]
        before = np.where(level == LEVELS, SHARE_UNITS, rest[group, level])
        cost = np.where(fits, before - rest[group, after], NOWHERE)
        rank = np.argsort(np.argsort(cost, axis=2, kind="stable"), axis=2, kind="stable")
        return fits & (rank < wanted.devices[:, None, None])

    def _value_of(self, group: Counts, whole: Counts, rests: Counts, cpus: Counts, host_memory_bytes: Counts) -> Counts:
        """What nodes are worth that have this left; `rests` has one more axis, as in `Worth`.

        Those who will use the rests take their cores and memory first; where there are too few, the rests are worth
        less and whole devices get none.
        """
        worth, (rest, rest_cpus, rest_memory) = self._worth, rests
        memory = host_memory_bytes // MIB
        cpus_beside, memory_beside = cpus - rest_cpus, memory - rest_memory
        for has, needed, beside in ((cpus, rest_cpus, cpus_beside), (memory, rest_memory, memory_beside)):
            if beside.min(initial=0) < 0:
                rest = np.where(beside < 0, rest * np.maximum(has, 0) // np.maximum(needed, 1), rest)
        last = worth.whole.shape[2] - 1
        cpu_step = np.minimum(np.maximum(cpus_beside, 0) // worth.cpu_step, last)
        memory_step = np.minimum(np.maximum(memory_beside, 0) // worth.memory_step, last)
        value: Counts = rest + worth.whole[group, whole, cpu_step, memory_step]
        return value

    def _levels(self, share: Counts, memory_bytes: Counts, rows: Index) -> Counts:
        """The levels of devices that have so much left; 0 where there is no device."""
        level = np.maximum(share, 0) // _UNITS
        if self._memory_bytes:
            whole = self._room.whole_memory_bytes[rows]
            of_memory = np.maximum(memory_bytes, 0) * LEVELS // np.maximum(whole, 1)
            level = np.where(whole > 0, np.minimum(level, of_memory), level)
        return level

    def _levels_after(self, wanted: Wanted, rows: Index) -> Counts:
        """Of each device its level if a demand's part sat on it: int64 [demands, rows, columns]."""
        room, units = self._room, wanted.units[:, None, None]
        memory = room.memory_bytes[rows][None]
        if self._memory_bytes:
            granted = np.minimum(room.whole_memory_bytes[rows] // SHARE_UNITS * units, memory)
            memory = memory - np.maximum(wanted.memory_bytes[:, None, None], granted)
        return self._levels(room.share[rows] - units, memory, rows)

    def _fits(self, wanted: Wanted, rows: Index) -> Mask:
        """Which devices fit a demand's part, on nodes that have its cores and memory: bool [demands, rows, columns]."""
        room = self._room
        fits: Mask = room.share[rows] >= wanted.units[:, None, None]
        if wanted.memory_bytes.any():
            fits &= room.memory_bytes[rows] >= wanted.memory_bytes[:, None, None]
        if not wanted.models[:, :-1].all():
            fits &= wanted.models[:, room.model[rows]]
        if wanted.barred.any():
            fits &= (room.kinds[rows] & wanted.barred[:, None, None]) == 0
        enough = room.milli_cpus[rows] >= wanted.milli_cpus[:, None]
        enough &= room.host_memory_bytes[rows] >= wanted.host_memory_bytes[:, None]
        fits &= enough[:, :, None]
        return fits

    def _left(self, rows: Index) -> tuple[Counts, Counts]:
        """Next to nothing for the cores and for the devices that nodes have left: a thousandth of a device for a
        hundred cores, and for each device."""
        cores = np.where(self._cores_count[rows], self._room.milli_cpus[rows] // 100, 0)
        return cores, np.maximum(self._room.share[rows], 0).sum(axis=1) // 1000


def _least(costs: Counts, without: Mask | None) -> tuple[int, int]:
    """The least cost and its row, the first of equals."""
    if without is not None:
        costs = np.where(without, NOWHERE, costs)
    row = int(costs.argmin())
    return costs.item(row), row
