"""What a stopping policy says: from a study's trials to verdicts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.schema import EarlyStop, Fate, Trial


@dataclass(frozen=True, slots=True)
class Hold:
    """The trial shall leave its device at the next step boundary and keep its checkpoint: it may be promoted yet."""

    trial_id: str
    stop: EarlyStop


@dataclass(frozen=True, slots=True)
class GoOn:
    """A trial that is held shall wait for devices again: `PROMOTED`, or `FINISHING` because it was drawn. `PROMOTED` of
    one that is being finished, or has been: it counts as stopped no more."""

    trial_id: str
    fate: Fate


@dataclass(frozen=True, slots=True)
class Prune:
    """A trial that is held is decided: nothing that runs or waits could promote it any more."""

    trial_id: str
    why: str


Verdict = Hold | GoOn | Prune

StoppingPolicy = Callable[[Sequence[Trial]], Sequence[Verdict]]
"""Pure: equal trials, equal verdicts. All that it knows lies in the trials, so whoever leads next goes on with it."""
