"""Which part of the time stages keep their share of a device busy, learned from those that ran or run. Pure."""

from orchestrator.history.likeness import Likenesses
from orchestrator.history.observations import Expected, Observations
from orchestrator.schema import Stage


class Utilisation:
    """0 to 1, as `events.StageMeasured` says it. One observation per bundle: a later one replaces it."""

    def __init__(self) -> None:
        self._likenesses = Likenesses()
        self._seen = Observations()

    def observe(self, bundle_id: str, stage: Stage, utilisation: float | None) -> None:
        """A bundle has kept its share busy so far; None teaches nothing."""
        if utilisation is not None:
            self._seen.observe(bundle_id, self._likenesses.of(stage), 1.0, utilisation)

    def settle(self, bundle_id: str) -> None:
        """The bundle is over: what was observed of it stays."""
        self._seen.settle(bundle_id)

    def expected(self, stage: Stage) -> Expected | None:
        """The mean over the runs that it goes by, with its interval; `high` may be beyond 1."""
        if not self._seen.revision:
            return None
        return self._seen.expected(self._likenesses.of(stage), 1.0)
