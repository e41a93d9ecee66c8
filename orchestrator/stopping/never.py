"""Every trial runs to its full budget: the null policy of early stopping."""

from collections.abc import Sequence

from orchestrator.schema import Trial
from orchestrator.stopping.policy import Verdict


def never(trials: Sequence[Trial]) -> Sequence[Verdict]:
    """No trial is stopped."""
    del trials
    return ()
