"""What one stopping policy adds to what all of them have in common (`judging`)."""

from collections.abc import Sequence
from typing import Protocol

from orchestrator.stopping.evidence import Standing


class Rule(Protocol):
    """By whom a setting is measured on a rung, and when it is stopped. `ranking`: all that stand on the rung, the best
    first, the one that is measured among them. `bar` and `p_not_worse` are asked of every trial that is held.
    """

    name: str

    def bar(self, ranking: Sequence[Standing]) -> Standing:
        """Who is as good as this one goes on."""

    def bar_in_words(self) -> str:
        """Whose accuracy that is, as in `against 55.0 % of ...`."""

    def p_not_worse(self, candidate: Standing, bar: Standing) -> float | None:
        """The one-sided p-value of what was seen if it were as good as the bar; None where nobody can say yet."""

    def stops(self, study: str, level: int, candidate: Standing, ranking: Sequence[Standing], alpha: float) -> bool:
        """Optuna's own word. level: how many rungs it was judged at before. alpha: the highest p-value to stop at."""


def best_first(standings: Sequence[Standing]) -> list[Standing]:
    """By accuracy; ties go to the one that came first."""
    return sorted(standings, key=lambda standing: (-standing.accuracy, standing.number))
