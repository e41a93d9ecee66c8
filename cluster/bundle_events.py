"""The events of one bundle, made of what its process says. Their stamps never go back, whatever the clock does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster import wire
from cluster.memory import Excess
from orchestrator.events import (
    BundleEvent,
    BundleStarted,
    BundleStopped,
    MemoryExceeded,
    StageCompleted,
    StageMeasured,
    StageRaised,
    StageReported,
    StageSaved,
    WorkerLost,
)

_UNASKED = "the stage returned finished=False although nobody asked it to stop"


@dataclass(slots=True)
class BundleEvents:
    """Makes them; `at` is when it happened [seconds since the epoch]."""

    bundle_id: str
    _last_at: float = 0.0

    def started(self, at: float) -> BundleStarted:
        """It is about to run."""
        return BundleStarted(at=self._stamp(at), bundle_id=self.bundle_id)

    def series(self, message: wire.Message) -> list[BundleEvent]:
        """Of `reports` or `saved`."""
        if message["kind"] == "saved":
            return [StageSaved(at=self._stamp(message["at"]), bundle_id=self.bundle_id, step=message["step"])]
        return [
            StageReported(
                at=self._stamp(report["at"]),
                bundle_id=self.bundle_id,
                step=report["step"],
                metrics=report["metrics"],
                progress=report["progress"],
            )
            for report in message["reports"]
        ]

    def measured(
        self, at: float, memory_bytes: int, host_memory_bytes: int, utilisation: float | None
    ) -> StageMeasured:
        """See `events.StageMeasured`."""
        return StageMeasured(
            at=self._stamp(at),
            bundle_id=self.bundle_id,
            memory_bytes=memory_bytes,
            host_memory_bytes=host_memory_bytes,
            utilisation=utilisation,
        )

    def completed(self, at: float, outcome: Mapping[str, Any]) -> StageCompleted:
        """`outcome` as it came over the wire."""
        return StageCompleted(at=self._stamp(at), bundle_id=self.bundle_id, outcome=wire.outcome_from_wire(outcome))

    def paused(self, at: float, busy_s: float, *, asked: bool) -> BundleStopped | StageRaised:
        """It ended unfinished, which is a fault of the stage unless it was `asked` to."""
        return self.stopped(at, busy_s) if asked else self.raised(at, _UNASKED)

    def stopped(self, at: float, busy_s: float = 0.0) -> BundleStopped:
        """As it was asked to."""
        return BundleStopped(at=self._stamp(at), bundle_id=self.bundle_id, busy_s=busy_s)

    def raised(self, at: float, error: str) -> StageRaised:
        """Its own code's fault."""
        return StageRaised(at=self._stamp(at), bundle_id=self.bundle_id, error=error)

    def exceeded(self, at: float, excess: Excess) -> MemoryExceeded:
        """It took too much."""
        return MemoryExceeded(
            at=self._stamp(at),
            bundle_id=self.bundle_id,
            used_bytes=excess.used_bytes,
            limit_bytes=excess.limit_bytes,
            on_host=excess.on_host,
        )

    def lost(self, at: float, reason: str, *, blameless: bool) -> WorkerLost:
        """Its process ended without an answer; `blameless`: with those of all others."""
        return WorkerLost(at=self._stamp(at), bundle_id=self.bundle_id, reason=reason, blameless=blameless)

    def _stamp(self, at: float) -> float:
        self._last_at = max(self._last_at, at)
        return self._last_at
