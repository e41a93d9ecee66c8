"""What runs is left to run: the null policy of preemption."""

from collections.abc import Sequence

from orchestrator.ordering import OrderingPolicy
from orchestrator.schema import Request
from orchestrator.sharing.preemption.policy import Preemption
from orchestrator.snapshot import Snapshot


def never(snapshot: Snapshot, unplaced: Sequence[Request], ordering: OrderingPolicy) -> Sequence[Preemption]:
    """Nobody makes room."""
    return ()
