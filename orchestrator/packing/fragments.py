"""How much of what nodes have left the expected demands can't use: the fragmentation of Weng et al., USENIX ATC'23.

What devices have left is a *fragment* for a demand if its node can't host the demand at all (too few devices that fit,
cores or host memory), or if the device itself doesn't fit one device's part of it; for work on the host alone all of it
is. The *amount* of fragments of a node is the mean over the demands as they are expected to arrive (section 3.2 there).
Who may not sit beside whom doesn't count.

Weights are whole and shares are whole units, so that every sum is exact in float64, in whatever order it is taken. In
shapes: R rows that are asked about, D devices of the largest node, M demands, P parts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from orchestrator.packing.ranking import Index
from orchestrator.schema import Demand
from orchestrator.snapshot import SHARE_UNITS, Counts, Mask, Room, milli_cpus, share_units

# Weights of demands are counted in parts of this many.
WEIGHTS = 10_000

Amounts = npt.NDArray[np.float64]
# What a demand asks of devices: how many, the share and the memory of each, and their models.
_Part = tuple[int, int, int, tuple[str, ...]]


def typical(expected: Mapping[Demand, float], popularity: float) -> tuple[tuple[Demand, int], ...]:
    """The most frequent demands that together make up `popularity` of all, with their weights in parts of WEIGHTS.

    Ties: what came first in `expected`. A demand whose weight is rounded to nothing is left out.
    """
    wanted = popularity * sum(expected.values())
    kept: list[tuple[Demand, float]] = []
    reached = 0.0
    for demand, weight in sorted(expected.items(), key=lambda item: -item[1]):
        if reached >= wanted:
            break
        kept.append((demand, weight))
        reached += weight
    weights = ((demand, round(WEIGHTS * weight / reached)) for demand, weight in kept)
    return tuple((demand, weight) for demand, weight in weights if weight > 0)


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

    Demands that ask the same of devices are one *part*, whatever they ask of the node.
    """

    def __init__(self, room: Room, weights: Sequence[tuple[Demand, int]]) -> None:
        self._model = room.model
        self._total = sum(weight for _, weight in weights)
        # One part's demands after the other's, so that a sum over them is one over neighbours.
        by_part: dict[_Part, list[tuple[Demand, int]]] = {}
        for demand, weight in weights:
            if demand.devices:
                by_part.setdefault(_part(demand), []).append((demand, weight))
        hosted = [entry for entries in by_part.values() for entry in entries]
        parts = list(by_part)
        self._devices: Amounts = np.array([part[0] for part in parts], np.float64)
        self._share: Counts = np.array([part[1] for part in parts], np.int64)
        self._memory_bytes: Counts = np.array([part[2] for part in parts], np.int64)
        # By model code which parts may use it; the last row, code -1, is for where there is no device.
        allowed = [[not part[3] or model in part[3] for part in parts] for model in room.models]
        self._allowed: Mask = np.array([*allowed, [False] * len(parts)], np.bool_)
        # Whether any of the demands asks for memory of its devices.
        self.counts_memory = bool(self._memory_bytes.any())
        self._any_models = any(part[3] for part in parts)
        self._milli_cpus: Counts = np.array([milli_cpus(demand.cpus) for demand, _ in hosted], np.int64)
        self._host_memory_bytes: Counts = np.array([demand.host_memory_bytes for demand, _ in hosted], np.int64)
        self._weights: Counts = np.array([weight for _, weight in hosted], np.int64)
        # Which is the first demand of each part.
        counts = [0, *(len(entries) for entries in by_part.values())]
        self._firsts: Index = np.cumsum(counts[:-1], dtype=np.intp)

    @property
    def of_a_device(self) -> float:
        """The amount that is one whole device."""
        return float(max(1, self._total) * SHARE_UNITS)

    def amounts(self, left: Left) -> Amounts:
        """The amount of fragments of each node, [R]."""
        all_of_it = self._total * np.maximum(left.share, 0).sum(axis=1)
        return cast(Amounts, all_of_it - np.einsum("rp,rp->r", self._hosted(left), self._usable(left)))

    def decreases_on_host(self, left: Left, after: Left) -> Amounts:
        """By how much the amount falls if nodes go from `left` to `after`, where devices have what they had: [R]."""
        return cast(Amounts, np.einsum("rp,rp->r", self._hosted(after) - self._hosted(left), self._usable(left)))

    def decreases(self, left: Left, after: Left, share: int, memory_bytes: Counts) -> Amounts:
        """By how much the amount falls if the nodes go from `left` to `after`, where devices have what they had, and
        one of them gives this share and this memory of its own; by which of them does: [R, D].

        What it says of devices that haven't as much is of no meaning.
        """
        before = left.share.astype(np.float64)
        fits = self._fits(left, left.share, left.memory_bytes)
        fits_after = self._fits(left, left.share - share, left.memory_bytes - memory_bytes)
        count = fits.sum(axis=1)
        usable = np.matmul(before[:, None, :], fits)[:, 0]
        used = np.einsum("rp,rp,rp->r", self._hosted(left), usable, count >= self._devices)
        # By device and part, [R, D, P]: what is usable then, and how many devices fit then.
        usable_after = (before - share)[:, :, None] * fits_after
        usable_after -= before[:, :, None] * fits
        usable_after += usable[:, None]
        count_after = fits_after - fits
        count_after += count[:, None]
        usable_after *= count_after >= self._devices
        used_after = np.matmul(usable_after, self._hosted(after)[:, :, None])[:, :, 0]
        return cast(Amounts, self._total * share - used[:, None] + used_after)

    def _usable(self, left: Left) -> Amounts:
        """What the devices that fit each part have left together, nothing where they are too few: [R, P]."""
        fits = self._fits(left, left.share, left.memory_bytes)
        usable = np.matmul(left.share[:, None, :].astype(np.float64), fits)[:, 0]
        usable *= fits.sum(axis=1) >= self._devices
        return cast(Amounts, usable)

    def _fits(self, left: Left, share: Counts, memory_bytes: Counts) -> Amounts:
        """1 where a device fits a part, else 0: [R, D, P]."""
        fits = share[:, :, None] >= self._share
        if self.counts_memory:
            fits &= memory_bytes[:, :, None] >= self._memory_bytes
        if self._any_models:
            fits &= self._allowed[self._model[left.rows]]
        return fits.astype(np.float64)

    def _hosted(self, left: Left) -> Amounts:
        """The weight of the demands of each part whose cores and host memory the node has: [R, P]."""
        has = left.milli_cpus[:, None] >= self._milli_cpus
        has &= left.host_memory_bytes[:, None] >= self._host_memory_bytes
        return np.add.reduceat(has * self._weights, self._firsts, axis=1).astype(np.float64)


def _part(demand: Demand) -> _Part:
    return demand.devices, max(1, share_units(demand.share)), demand.memory_bytes, demand.models
