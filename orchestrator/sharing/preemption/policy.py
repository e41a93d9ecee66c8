"""What a preemption policy is, and what it answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.ordering import OrderingPolicy
from orchestrator.schema import Request
from orchestrator.snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Preemption:
    """These bundles shall checkpoint and leave, so that `for_stage_key` can start. `reason` is for people."""

    bundle_ids: tuple[str, ...]
    for_stage_key: str
    reason: str


# The snapshot is one with this cycle's placements made, which are nobody's residents yet; the requests are the first of
# those that were admitted and found no room, in order; the ordering is the one that the queue is served by.
PreemptionPolicy = Callable[[Snapshot, Sequence[Request], OrderingPolicy], Sequence[Preemption]]
