"""What a defragmentation policy is, and what it answers."""

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.packing import PackingPolicy
from orchestrator.schema import Request
from orchestrator.snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """These bundles shall checkpoint, leave, and go on elsewhere, so that `for_stage_key` can start where they were.

    `stage_keys`: who is to be served next, in this order, once they have left: the request that was blocked, then those
    that moved. `reason` is for people.
    """

    bundle_ids: tuple[str, ...]
    for_stage_key: str
    stage_keys: tuple[str, ...]
    reason: str


# The snapshot is one with this cycle's placements made, the request the first in the order of service that found no
# room; whom a move concerns is served by the packing.
DefragmentationPolicy = Callable[[Snapshot, Request, PackingPolicy], Move | None]
