"""First come, first served."""

from collections.abc import Sequence

from orchestrator.schema import Request
from orchestrator.snapshot import Snapshot


def fifo(snapshot: Snapshot) -> Sequence[Request]:
    """By arrival, which is the queue's own order (ties: the trial's number). Costs what is looked at of it."""
    return snapshot.queue
