"""What it costs to sit beside others, by what was measured: the device share that is lost by slowing each other down.

A bundle of share s beside others of share t in all takes 1 + c x t / s times as long, so that s x c t / (s + c t) of
its share does nothing; theirs, in turn, t x c' s / (t + c' s). With c the mean over the kinds that sit there. Among
devices in use, pairs of which nothing is known cost nothing: they could not be learned otherwise. Where a device is
free and nobody waits, they count as what the model of `interference` expects of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from orchestrator.schema import Demand
from orchestrator.snapshot import SHARE_UNITS, Counts, Room, Rows, share_units

# Of a pair of which nothing is known, as the model of `interference` expects: sharing gains nothing over taking turns.
_UNKNOWN = 1.0
# What is lost by company is lost as long as it lasts, what is taken of those who may come only once they do: it counts
# so many times. Chosen among 1, 2 and 4 on seeds 1, 3 and 4 of the synthetic workload in the README of `packing`.
_WEIGHT = 4.0

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Company:
    """Of demands: `felt` is c beside each kind, `done` is c of each kind beside it, float64 [demands, kinds]; `bits`
    are the kinds' bits in `Room.kinds`, int64 [kinds]."""

    felt: Reals
    done: Reals
    bits: Counts

    @staticmethod
    def of(room: Room, demands: Sequence[Demand]) -> "Company | None":
        """None if nothing is known of anybody's company."""
        kinds = sorted({kind for pair in room.excess for kind in pair})
        if not any(room.excess.values()):
            return None
        excess = room.excess
        felt = [[excess.get((demand.kind, kind), 0.0) for kind in kinds] for demand in demands]
        done = [[excess.get((kind, demand.kind), 0.0) for kind in kinds] for demand in demands]
        shape = len(demands), len(kinds)
        return Company(
            felt=np.array(felt, np.float64).reshape(shape),
            done=np.array(done, np.float64).reshape(shape),
            bits=np.array([room.kind_bit(kind) for kind in kinds], np.int64),
        )

    def take(self, numbers: npt.NDArray[np.intp]) -> "Company":
        """That of some of the demands."""
        return Company(felt=self.felt[numbers], done=self.done[numbers], bits=self.bits)

    def lost(self, room: Room, rows: Rows, units: Counts) -> Counts:
        """What it costs a demand of so many units, [demands], to sit on a device: int64 [demands, rows, columns] in
        SHARE_UNITS."""
        there = (room.kinds[rows][:, :, None] & self.bits) != 0
        kinds = there / np.maximum(1, there.sum(axis=2, keepdims=True))
        felt, done = (np.einsum("dk,rck->drc", table, kinds) for table in (self.felt, self.done))
        taken = np.where(room.share[rows] >= 0, SHARE_UNITS - room.share[rows], 0)[None].astype(np.float64)
        own = units[:, None, None].astype(np.float64)
        both = own * taken
        lost = both * (felt / np.maximum(own + felt * taken, 1.0) + done / np.maximum(taken + done * own, 1.0))
        return cast(Counts, np.rint(_WEIGHT * lost).astype(np.int64))


def cost_beside(room: Room, demand: Demand, cell: tuple[int, int]) -> float:
    """What it costs a demand to sit on this device, (row, column), by what it and those who sit there are expected to
    lose by each other [SHARE_UNITS]: as `Company.lost`, but pairs of which nothing is known count too."""
    sitting = room.kinds.item(cell)
    bits = [1 << number for number in range(sitting.bit_length()) if sitting >> number & 1]
    if not demand.kind or not bits:
        return 0.0
    names = {room.kind_bit(kind): kind for pair in room.excess for kind in pair}
    kinds = [names.get(bit) for bit in bits]
    felt = _mean_excess(room, [(demand.kind, kind) for kind in kinds])
    done = _mean_excess(room, [(kind, demand.kind) for kind in kinds])
    own, taken = share_units(demand.share), SHARE_UNITS - room.share.item(cell)
    return _WEIGHT * own * taken * (felt / (own + felt * taken) + done / (taken + done * own))


def _mean_excess(room: Room, pairs: Sequence[tuple[str | None, str | None]]) -> float:
    known = cast(Mapping[tuple[str | None, str | None], float], room.excess)
    return sum(known.get(pair, _UNKNOWN) for pair in pairs) / len(pairs)
