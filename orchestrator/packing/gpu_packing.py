"""Beside others first, then on a free device of a node in use, and on an empty node last."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from orchestrator.packing.policy import in_order
from orchestrator.packing.ranking import Index, Ranks, first_ranked, tightest
from orchestrator.schema import Demand, Placement, Request
from orchestrator.snapshot import SHARE_UNITS, Room, Snapshot, Spot


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPacking:
    """Nodes where the demand fits on devices in use come first, the less they have left the sooner; then nodes in use,
    the fewer of their free devices it takes the sooner; then empty nodes, the fewer devices they have the sooner.

    On the node: the devices with the least share left, then the least memory left. Work without devices goes to the
    first node. Ties: the node with the smallest id, then the device with the smallest index. The scores are whole, from
    0 to 100, so that there are many ties: GpuPacking of Weng et al. (USENIX ATC'23, section 6.1), after MLaaS in the
    Wild (Weng et al., NSDI'22).
    """

    def __call__(self, snapshot: Snapshot, requests: Sequence[Request]) -> Sequence[Placement]:
        return in_order(snapshot, requests, self._choose)

    def _choose(self, room: Room, demand: Demand) -> Spot | None:
        return first_ranked(room, demand, self, _score, tightest)


def _score(room: Room, demand: Demand, rows: Index) -> Ranks:
    share = room.share[rows]
    if not demand.devices:
        return np.zeros(len(share))
    devices = room.exists[rows].sum(axis=1)
    free = (share == SHARE_UNITS).sum(axis=1)
    # The devices that it would take; where there are too few the node doesn't fit and its score is not looked at.
    taken = np.sort(np.where(room.fitting(demand, rows), share, 2 * SHARE_UNITS), axis=1)[:, : demand.devices]
    taken_free = (taken == SHARE_UNITS).sum(axis=1)
    percent_left = (taken * 100 // SHARE_UNITS).sum(axis=1)
    beside = np.maximum(100 - percent_left // 10, 50)
    in_use = np.maximum(50 - taken_free, 33)
    empty = np.maximum(33 - devices, 0)
    score = np.where(free == devices, empty, np.where(taken_free > 0, in_use, beside))
    return cast(Ranks, -score.astype(np.float64))
