"""Who slows whom down on a simulated device: the truth, of which the loop knows what it learns.

    slowdown(A | others) = 1 + sum over others B of c(A | B) x (share of B / share of A)
    c(A | B) = sum over phases p of A and q of B of part(p) x part(q) x c(p | q)

Phases of one trial follow each other many times within any stretch that is looked at, and independently of its
neighbours', so that what counts are the parts of the time that they take up. A gang feels the most that it feels on any
of its devices: its ranks wait for the slowest.
"""

from collections.abc import Mapping, Sequence

from orchestrator.events import Launch
from orchestrator.simulation.submissions import TracedStage


class Company:
    """slowdowns: c(p | q) by p and q; of phases that are not named it is 0."""

    def __init__(self, slowdowns: Mapping[str, Mapping[str, float]]) -> None:
        self._slowdowns = {phase: dict(beside) for phase, beside in slowdowns.items()}

    def __call__(self, launch: Launch, others: Sequence[Launch]) -> float:
        """See `cluster.simulated.Slowdown`."""
        felt = dict.fromkeys(launch.placement.device_ids, 0.0)
        for other in others:
            share = other.placement.share / launch.placement.share
            excess = self.excess(_phases(launch), _phases(other)) * share
            for device_id in other.placement.device_ids:
                if device_id in felt:
                    felt[device_id] += excess
        return 1.0 + max(felt.values(), default=0.0)

    def excess(self, phases: Mapping[str, float], beside: Mapping[str, float]) -> float:
        """c(A | B), by the parts of their time that phases take up."""
        return sum(
            part * other_part * self._slowdowns.get(phase, {}).get(other, 0.0)
            for phase, part in phases.items()
            for other, other_part in beside.items()
        )


def _phases(launch: Launch) -> Mapping[str, float]:
    assert isinstance(launch.stage, TracedStage), "a simulation runs stages of a trace only"
    return launch.stage.phases
