"""Who goes next. An ordering policy is a pure function from a snapshot to its queue in the order of service."""

from collections.abc import Callable, Mapping, Sequence

from orchestrator.ordering.fifo import fifo
from orchestrator.schema import Request, Snapshot

OrderingPolicy = Callable[[Snapshot], Sequence[Request]]

ORDERINGS: Mapping[str, OrderingPolicy] = {"fifo": fifo}

__all__ = ["ORDERINGS", "OrderingPolicy", "fifo"]
