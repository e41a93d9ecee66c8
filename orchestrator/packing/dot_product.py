"""Away from nodes that have much left of what is asked for: the alignment of Tetris, as the FGD study measured it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from orchestrator.packing.policy import in_order
from orchestrator.packing.ranking import (
    Index,
    Ranks,
    cpus_left,
    first_ranked,
    in_percent,
    most_milli_cpus,
    most_share,
    share_left,
    tightest,
)
from orchestrator.schema import Demand, Placement, Request
from orchestrator.snapshot import Room, Snapshot, Spot, milli_cpus, share_units


@dataclass(frozen=True, slots=True, kw_only=True)
class DotProduct:
    """The node with the least dot product of what it has left and what is asked for, of those that fit, cut off to
    whole percents; there the devices with the least share left, then the least memory left. Ties: the node with the
    smallest id, then the device with the smallest index.

    The vectors are the share of all devices together and the cores, each as a fraction of what the largest node has.
    Tetris (Grandl et al., SIGCOMM'14) takes the largest product; its form for GPU sharing (Weng et al., USENIX ATC'23,
    section 6.1) takes the least, which packs better. `largest` goes back to Tetris.
    """

    largest: bool = False

    def __call__(self, snapshot: Snapshot, requests: Sequence[Request]) -> Sequence[Placement]:
        return in_order(snapshot, requests, self._choose)

    def _choose(self, room: Room, demand: Demand) -> Spot | None:
        return first_ranked(room, demand, self, partial(_alignment, self.largest), tightest)


def _alignment(largest: bool, room: Room, demand: Demand, rows: Index) -> Ranks:
    share_asked = demand.devices * share_units(demand.share) / most_share(room)
    cpus_asked = milli_cpus(demand.cpus) / most_milli_cpus(room)
    alignment = (share_asked * share_left(room, rows) + cpus_asked * cpus_left(room, rows)) / 2
    return in_percent(alignment if largest else 1 - alignment)
