"""Like beside like: parts of a device beside parts, gangs beside gangs of the same size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from orchestrator.packing.policy import in_order
from orchestrator.packing.ranking import Index, Ranks, first_ranked, tightest
from orchestrator.schema import Demand, Placement, Request
from orchestrator.snapshot import SHARE_UNITS, Room, Snapshot, Spot


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuClustering:
    """Nodes where only those sit that hold as many devices (or a part of one) come first, then nodes where such sit
    with others, then nodes without anybody, then the rest; of these the node with the least share left.

    On the node: the devices with the least share left, then the least memory left. Work without devices goes to the
    first node. Ties: the node with the smallest id, then the device with the smallest index. The scores are whole, from
    0 to 100, so that there are many ties: GpuClustering of Weng et al. (USENIX ATC'23, section 6.1), after Gandiva
    (Xiao et al., OSDI'18).
    """

    def __call__(self, snapshot: Snapshot, requests: Sequence[Request]) -> Sequence[Placement]:
        return in_order(snapshot, requests, self._choose)

    def _choose(self, room: Room, demand: Demand) -> Spot | None:
        return first_ranked(room, demand, self, _score, tightest)


def _score(room: Room, demand: Demand, rows: Index) -> Ranks:
    share = room.share[rows]
    if not demand.devices:
        return np.zeros(len(share))
    present = room.sizes[rows] > 0
    alike = present[:, room.size_of(demand.devices, demand.share)]
    sizes = present.sum(axis=1)
    tier = np.select([alike & (sizes == 1), alike, sizes == 0], [75, 50, 25], 0)
    most = room.share.shape[1] * SHARE_UNITS
    left = np.maximum(share, 0).sum(axis=1)
    return cast(Ranks, -(tier + 25 * (most - left) // most).astype(np.float64))
