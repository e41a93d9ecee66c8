"""When is enough. A stopping policy is a pure function from a study's trials to the ids of those to stop."""

from collections.abc import Callable, Mapping, Sequence

from orchestrator.schema import Trial
from orchestrator.stopping.never import never

StoppingPolicy = Callable[[Sequence[Trial]], Sequence[str]]

STOPPINGS: Mapping[str, StoppingPolicy] = {"never": never}

__all__ = ["STOPPINGS", "StoppingPolicy", "never"]
