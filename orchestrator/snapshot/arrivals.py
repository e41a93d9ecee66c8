"""Which demands have come so far: the workload as a packing policy can know it."""

from collections.abc import Mapping

from orchestrator.schema import Demand

# What is expected changes each time so many times as many have come.
_GROWTH = 1.25


class Arrivals:
    """How often each demand has come, a requeued one counted once. `revision` grows with every arrival.

    known: what is known of the workload beforehand, by how often each demand comes; it stands in for what was seen.
    seen: what had come before, by how often.
    """

    def __init__(self, known: Mapping[Demand, float] | None = None, seen: Mapping[Demand, float] | None = None) -> None:
        self.known: Mapping[Demand, float] = dict(known or {})
        self.counts: dict[Demand, float] = dict(seen or {})
        self.revision = 0
        self._seen: Mapping[Demand, float] = dict(self.counts)
        self._look_at = 1.0

    def observe(self, demand: Demand) -> None:
        """One more request with this demand has come."""
        self.counts[demand] = self.counts.get(demand, 0) + 1
        self.revision += 1
        if self.revision >= self._look_at:
            self._seen, self._look_at = dict(self.counts), self.revision * _GROWTH

    @property
    def seen(self) -> Mapping[Demand, float]:
        """What had come when the number of arrivals last grew by a quarter. It stays the same object until it changes,
        so that whoever works something out of it knows when to do so again."""
        return self._seen

    @property
    def expected(self) -> Mapping[Demand, float]:
        """What was known beforehand if anything was, else what was seen; weights need not add up to one. It stays the
        same object until it changes."""
        return self.known or self._seen
