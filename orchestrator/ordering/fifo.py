"""First come, first served."""

from collections.abc import Sequence

from orchestrator.schema import Request, Snapshot


def fifo(snapshot: Snapshot) -> Sequence[Request]:
    """By arrival; ties keep the queue's own order (the trial's number)."""
    return sorted(snapshot.queue, key=lambda request: request.queued_at)
