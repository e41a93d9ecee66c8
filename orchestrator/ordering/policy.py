"""What an ordering policy is."""

from collections.abc import Callable, Iterable

from orchestrator.schema import Request
from orchestrator.snapshot import Snapshot

# What comes back is gone through once, and no further than somebody wants: a policy that can tell who is next without
# looking at everybody answers with an iterator.
OrderingPolicy = Callable[[Snapshot], Iterable[Request]]
