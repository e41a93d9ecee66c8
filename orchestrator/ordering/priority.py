"""The more important first."""

from collections.abc import Sequence

from orchestrator.schema import Request
from orchestrator.snapshot import Snapshot


def priority(snapshot: Snapshot) -> Sequence[Request]:
    """Higher priority first, then by arrival; ties keep the queue's own order."""
    return sorted(snapshot.queue, key=lambda request: (-request.priority, request.queued_at))
