"""Who makes room. A preemption policy is a pure function from a snapshot and what found no room to bundles to stop."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from orchestrator.sharing.preemption.least_lost import least_lost
from orchestrator.sharing.preemption.never import never
from orchestrator.sharing.preemption.policy import Preemption, PreemptionPolicy

# From the resolved config of the group `preemption` to its policy.
PREEMPTIONS: Mapping[str, Callable[[Mapping[str, Any]], PreemptionPolicy]] = {
    "never": lambda config: never,
    "least_lost": lambda config: partial(
        least_lost, max_preemptions=config["max_preemptions"], min_hold_s=config["min_hold_s"]
    ),
}

__all__ = ["PREEMPTIONS", "Preemption", "PreemptionPolicy", "least_lost", "never"]
