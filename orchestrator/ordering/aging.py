"""A bound on waiting under any policy: who has waited too long goes first."""

from collections.abc import Iterable
from itertools import chain, takewhile

from orchestrator.ordering.policy import OrderingPolicy
from orchestrator.schema import Request
from orchestrator.snapshot import Snapshot


def with_aging(policy: OrderingPolicy, max_wait_s: float) -> OrderingPolicy:
    """`policy`, but requests that have waited longer than `max_wait_s` [s] go first, by arrival.

    So a request is overtaken by later ones for `max_wait_s` at most, whatever arrives. Since packing stops at the
    first request that doesn't fit, one that is at the head starts once the longest hold of that moment has ended.
    Ties: the queue's own order.
    """

    def aged_first(snapshot: Snapshot) -> Iterable[Request]:
        ordered = policy(snapshot)
        before = snapshot.at - max_wait_s
        # The queue is in order of arrival, so whoever is overdue is at its head.
        first = next(iter(snapshot.queue), None)
        if first is None or first.queued_at >= before:
            return ordered
        overdue = takewhile(lambda request: request.queued_at < before, snapshot.queue)
        return chain(overdue, (request for request in ordered if request.queued_at >= before))

    return aged_first
