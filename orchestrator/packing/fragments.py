"""How much of what nodes have left the expected demands can't use: the fragmentation of Weng et al., USENIX ATC'23.

What devices have left is a *fragment* for a demand if its node can't host the demand at all (too few devices that fit,
cores or host memory), or if the device itself doesn't fit one device's part of it; for work on the host alone all of it
is. The *amount* of fragments of a node is the mean over the demands as they are expected to arrive (section 3.2 there).
Who may not sit beside whom doesn't count.

Weights are whole and shares are whole units, so that every sum is exact, in whatever order it is taken. In shapes: R
rows that are asked about, D devices of the largest node, Q kinds of demands, P parts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt

from orchestrator.packing.ranking import Index
from orchestrator.schema import Demand
from orchestrator.snapshot import SHARE_UNITS, Counts, Mask, Room, milli_cpus, share_units

# Weights of demands are counted in parts of this many.
WEIGHTS = 10_000
# So many different shares, cores and host memories are told apart among the typical demands.
VALUES = 100

Amounts = npt.NDArray[np.float64]
# Demands that ask for as many devices, of as much memory, and of the same models where a node has several.
_Kind = tuple[int, int, tuple[str, ...]]


def typical(expected: Mapping[Demand, float], popularity: float) -> tuple[tuple[Demand, int], ...]:
    """The most frequent demands that together make up `popularity` of all, with their weights in parts of WEIGHTS.

    Where they have more than VALUES different shares, cores or host memories, neighbouring values count as the largest
    of them, so many together that each weighs about as much. Ties: what came first in `expected`. A demand whose weight
    is rounded to nothing is left out.
    """
    wanted = popularity * sum(expected.values())
    kept: list[tuple[Demand, float]] = []
    reached = 0.0
    for demand, weight in sorted(expected.items(), key=lambda item: -item[1]):
        if reached >= wanted:
            break
        kept.append((demand, weight))
        reached += weight
    weights = ((demand, round(WEIGHTS * weight / reached)) for demand, weight in _merged(kept))
    return tuple((demand, weight) for demand, weight in weights if weight > 0)


def _merged(demands: Sequence[tuple[Demand, float]]) -> Sequence[tuple[Demand, float]]:
    """The demands with no more than VALUES different shares, cores and host memories; in order of the first of each."""
    counted: list[Mapping[float, float]] = []
    for name in ("share", "cpus", "host_memory_bytes"):
        weights: dict[float, float] = {}
        for demand, weight in demands:
            weights[getattr(demand, name)] = weights.get(getattr(demand, name), 0.0) + weight
        counted.append(_neighbours(weights) if len(weights) > VALUES else {value: value for value in weights})
    shares, cpus, memories = counted
    merged: dict[Demand, float] = {}
    for demand, weight in demands:
        alike = replace(
            demand,
            share=shares[demand.share],
            cpus=cpus[demand.cpus],
            host_memory_bytes=int(memories[demand.host_memory_bytes]),
        )
        merged[alike] = merged.get(alike, 0.0) + weight
    return list(merged.items())


def _neighbours(weights: Mapping[float, float]) -> dict[float, float]:
    """For each value the largest of those that it counts with."""
    values = sorted(weights)
    before = np.cumsum([0.0, *(weights[value] for value in values[:-1])])
    places = (before * (VALUES / sum(weights.values()))).astype(np.int64)
    largest = dict(zip(places.tolist(), values, strict=True))
    return {value: largest[place] for value, place in zip(values, places.tolist(), strict=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What nodes have left. rows: which they are, [R]; share, memory_bytes: of their devices, [R, D]; milli_cpus,
    host_memory_bytes: [R]."""

    rows: Index
    share: Counts
    memory_bytes: Counts
    milli_cpus: Counts
    host_memory_bytes: Counts

    @staticmethod
    def now(room: Room, rows: Index) -> "Left":
        """What is left of these rows of the room."""
        return Left(
            rows=rows,
            share=room.share[rows],
            memory_bytes=room.memory_bytes[rows],
            milli_cpus=room.milli_cpus[rows],
            host_memory_bytes=room.host_memory_bytes[rows],
        )

    def without_host_part(self, demand: Demand) -> "Left":
        """After the demand took its cores and host memory; the devices have what they had, in the same arrays."""
        return Left(
            rows=self.rows,
            share=self.share,
            memory_bytes=self.memory_bytes,
            milli_cpus=self.milli_cpus - milli_cpus(demand.cpus),
            host_memory_bytes=self.host_memory_bytes - demand.host_memory_bytes,
        )

    def without(self, chosen: Index, share: int, memory_bytes: Counts) -> "Left":
        """After the chosen devices, [R, n], gave this share and this memory of their own, [R, 1]."""
        left, left_bytes = self.share.copy(), self.memory_bytes.copy()
        for array, taken in ((left, share), (left_bytes, memory_bytes)):
            np.put_along_axis(array, chosen, np.take_along_axis(array, chosen, axis=1) - taken, axis=1)
        return Left(
            rows=self.rows,
            share=left,
            memory_bytes=left_bytes,
            milli_cpus=self.milli_cpus,
            host_memory_bytes=self.host_memory_bytes,
        )


class Fragments:
    """Measures the fragments of a room's nodes for demands with their weights.

    Demands of one *kind* ask for as many devices of as much memory. Where those want n devices, a device is of use to
    all who want no more of each than it has left, and than the n-th has of those that have most left. How much the
    demands weigh that want no more share, cores and host memory is in a table, so that more demands take no longer.
    """

    def __init__(self, room: Room, weights: Sequence[tuple[Demand, int]]) -> None:
        self._total = sum(weight for _, weight in weights)
        self._model = room.model
        # Of nodes with one model each the table tells the models apart, else the kinds do.
        code = room.model.max(axis=1, initial=-1)
        self._mixed = bool((room.exists & (room.model != code[:, None])).any())
        self._code = np.zeros_like(code) if self._mixed else np.maximum(code, 0)
        # What is wanted of more devices than any node has is a fragment everywhere.
        hosted = [(demand, weight) for demand, weight in weights if 0 < demand.devices <= room.share.shape[1]]
        kinds: dict[_Kind, int] = {}
        for demand, _ in hosted:
            kinds.setdefault(self._kind(demand), len(kinds))
        self._devices: Index = np.array([devices for devices, _, _ in kinds], np.intp)
        self._every: Index = np.arange(len(kinds))
        # What devices must have for a kind, [Q]; whether any of the demands asks for memory of its devices.
        self._memory_bytes: Counts = np.array([memory for _, memory, _ in kinds], np.int64)
        self.counts_memory = bool(self._memory_bytes.any())
        # By kind and model code whether it may use it, [Q, models + 1]; the last is where there is no device.
        self._allowed: Mask = np.array(
            [[*(not models or model in models for model in room.models), False] for _, _, models in kinds], np.bool_
        ).reshape(len(kinds), len(room.models) + 1)
        self._shares: Counts = np.unique([_units(demand) for demand, _ in hosted]).astype(np.int64)
        self._milli_cpus: Counts = np.unique([milli_cpus(demand.cpus) for demand, _ in hosted]).astype(np.int64)
        self._host_memory_bytes: Counts = np.unique([d.host_memory_bytes for d, _ in hosted]).astype(np.int64)
        # By kind and number of `_shares` that are left, the part: the column of the table; 0 is nothing.
        self._part: Index = np.zeros((len(kinds), len(self._shares) + 1), np.intp)
        self._table = self._weighed(room, hosted, kinds)

    def _kind(self, demand: Demand) -> _Kind:
        return demand.devices, demand.memory_bytes, demand.models if self._mixed else ()

    def _weighed(self, room: Room, hosted: Sequence[tuple[Demand, int]], kinds: Mapping[_Kind, int]) -> Counts:
        """How much those of a kind weigh that want no more: int64 [codes, cores + 1, host memories + 1, P + 1], where
        a part is a kind and the most share that is wanted, and 0 in cores or host memory is less than anybody wants."""
        parts = sorted({(kinds[self._kind(demand)], _units(demand)) for demand, _ in hosted})
        number = {part: place for place, part in enumerate(parts, start=1)}
        for kind, share in parts:
            self._part[kind, np.searchsorted(self._shares, share) + 1 :] = number[kind, share]
        models = [""] if self._mixed else list(room.models) or [""]
        shape = len(models), len(self._milli_cpus) + 1, len(self._host_memory_bytes) + 1, len(parts) + 1
        table: Counts = np.zeros(shape, np.int64)
        for demand, weight in hosted:
            codes = [self._mixed or not demand.models or model in demand.models for model in models]
            cpus = np.searchsorted(self._milli_cpus, milli_cpus(demand.cpus)) + 1
            memory = np.searchsorted(self._host_memory_bytes, demand.host_memory_bytes) + 1
            table[codes, cpus, memory, number[kinds[self._kind(demand)], _units(demand)]] += weight
        np.cumsum(table, axis=1, out=table)
        np.cumsum(table, axis=2, out=table)
        for kind in range(len(kinds)):
            own = slice(*np.searchsorted([part[0] for part in parts], [kind, kind + 1]) + 1)
            table[..., own] = np.cumsum(table[..., own], axis=3)
        return table

    @property
    def of_a_device(self) -> float:
        """The amount that is one whole device."""
        return float(max(1, self._total) * SHARE_UNITS)

    def amounts(self, left: Left) -> Amounts:
        """The amount of fragments of each node, [R]."""
        all_of_it = self._total * np.maximum(left.share, 0).sum(axis=1)
        return cast(Amounts, (all_of_it - self._used(left, self._sorted(left)[1])).astype(np.float64))

    def decreases_on_host(self, left: Left, after: Left) -> Amounts:
        """By how much the amount falls if nodes go from `left` to `after`, where devices have what they had: [R]."""
        shares = self._sorted(left)[1]
        return cast(Amounts, (self._used(after, shares) - self._used(left, shares)).astype(np.float64))

    def decreases(self, left: Left, after: Left, share: int, memory_bytes: Counts) -> Amounts:
        """By how much the amount falls if the nodes go from `left` to `after`, where devices have what they had, and
        one of them gives this share and this memory of its own; by which of them does: [R, D].

        What it says of devices that haven't as much is of no meaning.
        """
        order, shares = self._sorted(left)
        given = self._usable(left, left.share - share, left.memory_bytes - memory_bytes)
        given = np.take_along_axis(given, order, axis=2)
        at = self._at(after)
        weight, weight_given = self._weights(at, shares), self._weights(at, given)
        use, use_given = shares * weight, given * weight_given
        # Of the n-th and of the next one by kind, each [R, Q, 1]: what it has, who it is for, and together with those
        # before it what it has; then of what use those behind it are.
        (share_of_nth, share_of_next), (weight_of_nth, weight_of_next) = self._of(shares), self._of(weight)
        first, first_and = self._of(shares.cumsum(axis=2))
        use_upto = use.cumsum(axis=2)
        behind, behind_and = (use_upto[:, :, -1:] - upto for upto in self._of(use_upto))
        # One of the n fullest that gives may fall behind the next one; all are of use up to the n-th of them then.
        then = np.where(
            given <= share_of_next,
            (first_and - shares) * weight_of_next + behind_and + use_given,
            (first - shares + given) * np.where(given < share_of_nth, weight_given, weight_of_nth) + behind,
        )
        others = first * weight_of_nth + behind - use + use_given
        is_of_them = np.arange(shares.shape[2]) < self._devices[:, None]
        used = np.where(is_of_them, then, others)
        used_after = np.zeros_like(weight[:, :, :-1])
        np.put_along_axis(used_after, np.broadcast_to(order, weight.shape)[:, :, :-1], used[:, :, :-1], axis=2)
        decrease = self._total * share - self._used(left, shares)[:, None] + used_after.sum(axis=1)
        return cast(Amounts, decrease.astype(np.float64))

    def _used(self, left: Left, shares: Counts) -> Counts:
        """What devices with these shares, see `_sorted`, are of use, by the weight of whom they are for: [R]."""
        weight = self._weights(self._at(left), shares)
        use_upto = (shares * weight).cumsum(axis=2)
        first, behind = self._of(shares.cumsum(axis=2))[0] * self._of(weight)[0], self._of(use_upto)[0]
        return cast(Counts, (first + use_upto[:, :, -1:] - behind).sum(axis=(1, 2)))

    def _of(self, table: Counts) -> tuple[Counts, Counts]:
        """What is said of the n-th device, and of the next one, for the n of each kind: [R, Q, 1] each."""
        kinds = self._every if table.shape[1] == len(self._every) else 0
        nth = table[:, kinds, self._devices - 1], table[:, kinds, self._devices]
        return nth[0][:, :, None], nth[1][:, :, None]

    def _usable(self, left: Left, share: Counts, memory_bytes: Counts) -> Counts:
        """What devices have left of use to each kind, as far as the device goes, and a last one that has nothing:
        [R, Q, D + 1], or [R, 1, D + 1] where all kinds see the same."""
        usable = np.zeros((len(share), 1, share.shape[1] + 1), np.int64)
        usable[:, 0, :-1] = np.maximum(share, 0)
        if self.counts_memory:
            has = np.zeros((len(share), 1, share.shape[1] + 1), np.int64)
            has[:, 0, :-1] = memory_bytes
            usable = usable * (has >= self._memory_bytes[:, None])
        if self._mixed:
            model = np.full((len(share), share.shape[1] + 1), -1, np.int64)
            model[:, :-1] = self._model[left.rows]
            usable = usable * self._allowed[:, model].swapaxes(0, 1)
        return usable

    def _sorted(self, left: Left) -> tuple[Index, Counts]:
        """The devices by what they have left of use to each kind, the most first, and what that is."""
        usable = self._usable(left, left.share, left.memory_bytes)
        order = np.argsort(-usable, axis=2, kind="stable")
        return order, np.take_along_axis(usable, order, axis=2)

    def _at(self, left: Left) -> Index:
        """Where in the table the demands are whose models, cores and host memory the nodes have: [R, 1, 1]."""
        _, cores, memories, parts = self._table.shape
        at = self._code[left.rows] * cores + np.searchsorted(self._milli_cpus, left.milli_cpus, side="right")
        at = at * memories + np.searchsorted(self._host_memory_bytes, left.host_memory_bytes, side="right")
        return cast(Index, (at * parts)[:, None, None])

    def _weights(self, at: Index, shares: Counts) -> Counts:
        """The weight of the demands of each kind that want no more than these shares: [R, Q, D + 1]."""
        part = self._part[self._every[:, None], np.searchsorted(self._shares, shares, side="right")]
        return cast(Counts, self._table.ravel()[at + part])


def _units(demand: Demand) -> int:
    return max(1, share_units(demand.share))
