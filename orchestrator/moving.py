"""One move at a time: asks the defragmentation policy for one, and sees to it that what is freed goes to whom it was
freed for.

While those who move are leaving, nobody else is placed: policies that serve in order let nobody pass the blocked
request anyhow, and there is nothing to reserve. Once they have left, the blocked request and they are served, and
nobody else in that cycle, so that the packing answers what it was asked when the move was decided. Then the move is
over, whatever came of it. A new leader knows of no move: whoever was moving waits at its old place.
"""

from collections.abc import Iterable, Sequence

from orchestrator.events import PreemptionDecided
from orchestrator.packing import PackingPolicy
from orchestrator.schema import Request
from orchestrator.sharing.defragmentation import DefragmentationPolicy, Move, never
from orchestrator.snapshot import Snapshot
from orchestrator.state import SchedulerState

# The policy looks at all residents: it is asked no more often than this [s].
LOOK_EVERY_S = 5.0


class Moving:
    """The move that is under way, if any."""

    def __init__(self, state: SchedulerState, policy: DefragmentationPolicy, packing: PackingPolicy) -> None:
        self.on = policy is not never
        self._state = state
        self._policy = policy
        self._packing = packing
        self._move: Move | None = None
        self._look_again_at = float("-inf")

    def served(self, service: Iterable[Request]) -> tuple[Iterable[Request], bool]:
        """Who is served in this cycle, of those in the order of service, and whether others have to wait for the next
        one."""
        move = self._move
        if move is None:
            return service, False
        if any(bundle_id in self._state.bundles for bundle_id in move.bundle_ids):
            return (), False
        self._move = None
        waiting = {request.stage_key: request for request in service if request.stage_key in move.stage_keys}
        if move.for_stage_key not in waiting:
            return service, False
        return [waiting[key] for key in move.stage_keys if key in waiting], True

    def decide(self, snapshot: Snapshot, unplaced: Sequence[Request]) -> list[PreemptionDecided]:
        """Who moves for the first of those that found no room; `snapshot` as `DefragmentationPolicy` wants it."""
        if self._move is not None or snapshot.at < self._look_again_at:
            return []
        self._look_again_at = snapshot.at + LOOK_EVERY_S
        self._move = self._policy(snapshot, unplaced[0], self._packing)
        if self._move is None:
            return []
        return [PreemptionDecided(at=snapshot.at, bundle_ids=self._move.bundle_ids, reason=self._move.reason)]
