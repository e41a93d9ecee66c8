"""Shortest expected hold first, which makes the mean wait the least (Smith 1956, with equal weights)."""

from collections.abc import Sequence
from statistics import fmean

from orchestrator.schema import Request
from orchestrator.snapshot import Snapshot


def shortest_first(snapshot: Snapshot) -> Sequence[Request]:
    """By the time that a request is expected to hold its devices [s], then by arrival, then in the queue's own order.

    A request of which nobody can say counts as the mean of those known; if none is known, all go by arrival.
    """
    known = [request.expected_s for request in snapshot.queue if request.expected_s is not None]
    mean = fmean(known) if known else 0.0

    def hold_then_arrival(request: Request) -> tuple[float, float]:
        return (mean if request.expected_s is None else request.expected_s), request.queued_at

    return sorted(snapshot.queue, key=hold_then_arrival)
