"""What runs stays where it is: the null policy of defragmentation."""

from orchestrator.packing import PackingPolicy
from orchestrator.schema import Request
from orchestrator.sharing.defragmentation.policy import Move
from orchestrator.snapshot import Snapshot


def never(snapshot: Snapshot, blocked: Request, packing: PackingPolicy) -> Move | None:
    """Nobody moves."""
    return None
