"""First come, first served."""

from collections.abc import Sequence

from orchestrator.schema import Request, Snapshot


def fifo(snapshot: Snapshot) -> Sequence[Request]:
    """By priority, then by arrival; ties keep the queue's own order (the trial's number)."""
    return sorted(snapshot.queue, key=lambda request: (-request.priority, request.queued_at))
