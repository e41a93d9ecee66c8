"""What an ordering policy is."""

from collections.abc import Callable, Sequence

from orchestrator.schema import Request, Snapshot

OrderingPolicy = Callable[[Snapshot], Sequence[Request]]
