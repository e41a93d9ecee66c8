"""The fullest node that still fits, and on it the fullest devices, so that whole nodes and devices stay free for those
that need them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from orchestrator.packing.policy import in_order
from orchestrator.packing.ranking import Index, Ranks, cpus_left, first_ranked, share_left, tightest
from orchestrator.schema import Demand, Placement, Request
from orchestrator.snapshot import Room, Snapshot, Spot


@dataclass(frozen=True, slots=True, kw_only=True)
class BestFit:
    """The node where the weighted sum of what is left is least, of those that fit; there the devices with the least
    share left, then the least memory left.

    Ties: the node with the smallest id, then the device with the smallest index.

    What is left counts as a fraction of what the largest node has: the shares of all devices together by
    1 - `cpu_weight`, the cores by `cpu_weight`. It is the same for every demand, whatever it asks for. This is BestFit
    of Weng et al. (USENIX ATC'23, section 6.1) without rounding to whole percents; it weighs both alike.
    """

    cpu_weight: float = 0.5

    def __call__(self, snapshot: Snapshot, requests: Sequence[Request]) -> Sequence[Placement]:
        return in_order(snapshot, requests, self._choose)

    def _choose(self, room: Room, demand: Demand) -> Spot | None:
        return first_ranked(room, demand, self, partial(_left, self.cpu_weight), tightest)


def _left(cpu_weight: float, room: Room, _: Demand, rows: Index) -> Ranks:
    return (1 - cpu_weight) * share_left(room, rows) + cpu_weight * cpus_left(room, rows)
