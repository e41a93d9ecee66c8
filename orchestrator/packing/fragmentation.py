"""Where the least becomes of no use to those who are expected: fragmentation gradient descent."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import numpy.typing as npt

from orchestrator.packing.alike import Alike
from orchestrator.packing.fragments import Amounts, Fragments, Left, typical
from orchestrator.packing.policy import in_order
from orchestrator.packing.ranking import Index, Ranking, Ranks, kept
from orchestrator.schema import Demand, Placement, Request
from orchestrator.snapshot import Counts, Room, Snapshot, Spot, share_units

Scores = npt.NDArray[np.float64]
# By which decrease of fragments, in devices, a score of 1, 2, ... 99 is reached: sigmoid(decrease) x 100, cut off.
_REACHED = np.array([math.log(score / (100 - score)) for score in range(1, 100)])
# Among more nodes than these it pays to look for some that are alike.
_FEW = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragmentation:
    """The node whose fragments grow least, of those that fit, and there the device of which the same holds.

    Fragments are counted over the demands as they are expected: the most frequent ones that together make up
    `popularity` of what is known of the workload beforehand, or else of what has arrived so far. By how much a node's
    fragments decrease, in devices, goes through a sigmoid and is cut off to whole scores from 0 to 100. A gang takes
    the devices that would be best by themselves.

    Ties, of which there are many: the node with the smallest id, then the device with the smallest index. FGD of Weng
    et al. (USENIX ATC'23, section 4); its ties are part of why it works.
    """

    popularity: float = 0.95

    def __call__(self, snapshot: Snapshot, requests: Sequence[Request]) -> Sequence[Placement]:
        return in_order(snapshot, requests, partial(self._choose, self._fragments(snapshot)))

    def _choose(self, fragments: Fragments, room: Room, demand: Demand) -> Spot | None:
        descent = kept(room, self, demand, lambda: _Descent(room, demand, fragments))
        row = descent.first()
        return None if row is None else ((row, descent.devices(row)),)

    def _fragments(self, snapshot: Snapshot) -> Fragments:
        """The measure by the demands as they are expected now; when it changes, the rankings by it are forgotten."""
        arrivals, cache = snapshot.arrivals, snapshot.room.cache
        expected = arrivals.expected
        last: _Expected | None = cache.get(("expected", self))
        if last is not None and last.expected is expected:
            return last.fragments
        weights = typical(expected, self.popularity)
        if last is not None and last.weights == weights:
            fragments = last.fragments
        else:
            fragments = Fragments(snapshot.room, weights)
            cache.pop(self, None)
        cache["expected", self] = _Expected(expected=expected, weights=weights, fragments=fragments)
        return fragments


@dataclass(frozen=True, slots=True, kw_only=True)
class _Expected:
    """The measure by the demands as they were expected."""

    expected: Mapping[Demand, float]
    weights: tuple[tuple[Demand, int], ...]
    fragments: Fragments


class _Descent(Ranking):
    """Every node's score for one demand, and the devices that it is for."""

    def __init__(self, room: Room, demand: Demand, fragments: Fragments) -> None:
        super().__init__(room, demand, self._score)
        self._fragments = fragments
        self._share = share_units(demand.share)
        self._columns = np.zeros((len(room.nodes), min(demand.devices, room.share.shape[1])), np.intp)

    def devices(self, row: int) -> tuple[int, ...]:
        """The columns of the best devices of a node that fits."""
        return tuple(self._columns[row].tolist())

    def _rank_all(self, fitting: Index) -> None:
        if len(fitting) <= _FEW:
            return super()._rank_all(fitting)
        first, like = Alike.of(self._room).first(fitting)
        super()._rank_all(first)
        self._ranks[fitting], self._columns[fitting] = self._ranks[first][like], self._columns[first][like]
        return None

    def _score(self, room: Room, demand: Demand, rows: Index) -> Ranks:
        left = Left.now(room, rows)
        after = left.without_host_part(demand)
        if not demand.devices:
            return -self._scores(self._fragments.decreases_on_host(left, after))
        granted = _granted(room, demand, left) if self._fragments.counts_memory else np.zeros_like(left.memory_bytes)
        scores = self._scores(self._fragments.decreases(left, after, self._share, granted))
        scores[~room.fitting(demand, rows)] = -1.0
        if demand.devices == 1:
            self._columns[rows, 0] = best = scores.argmax(axis=1)
            return cast(Ranks, -scores[np.arange(len(rows)), best])
        self._columns[rows] = best = np.argsort(-scores, axis=1, kind="stable")[:, : demand.devices]
        # Each device of a gang gives as much as the one that gives least.
        granted = np.take_along_axis(granted, best, axis=1).min(axis=1, keepdims=True)
        after = after.without(best, self._share, granted)
        return -self._scores(self._fragments.amounts(left) - self._fragments.amounts(after))

    def _scores(self, decrease: Amounts) -> Scores:
        reached = np.searchsorted(_REACHED, decrease / self._fragments.of_a_device, side="right")
        return reached.astype(np.float64)


def _granted(room: Room, demand: Demand, left: Left) -> Counts:
    """The memory that each device would give to one device's part of the demand, see `Room.place`: [R, D]."""
    in_share = (demand.share * room.whole_memory_bytes[left.rows]).astype(np.int64)
    return cast(Counts, np.maximum(demand.memory_bytes, np.minimum(in_share, left.memory_bytes)))
