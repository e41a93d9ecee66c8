"""Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934) by Optuna's `SuccessiveHalvingPruner`: at every
rung the best 1/factor of the settings that have reached it go on."""

from collections.abc import Sequence

from orchestrator.stopping.evidence import Standing, p_not_worse
from orchestrator.stopping.optuna_view import Crowd, Seen, would_prune

_PARTS = {2: "half", 3: "third", 4: "quarter", 5: "fifth"}


class SuccessiveHalving:
    """See `rule.Rule`."""

    name = "successive_halving"

    def __init__(self, factor: int) -> None:
        self.factor = factor
        self.crowd = Crowd()

    def bar(self, ranking: Sequence[Standing]) -> Standing:
        """The last of those that go on."""
        return ranking[max(1, len(ranking) // self.factor) - 1]

    def bar_in_words(self) -> str:
        """The worst of the best part, which is what it takes to be one of them."""
        return f"the last of the best {_PARTS.get(self.factor, f'1/{self.factor}')}"

    def p_not_worse(self, candidate: Standing, bar: Standing) -> float | None:
        """By problems and seeds."""
        return p_not_worse(candidate, bar)

    def stops(self, study: str, level: int, candidate: Standing, ranking: Sequence[Standing], alpha: float) -> bool:
        """The pruner sees this rung as its first: where a trial's rungs begin depends on its grace."""
        from optuna.pruners import SuccessiveHalvingPruner

        pruner = SuccessiveHalvingPruner(min_resource=1, reduction_factor=self.factor, min_early_stopping_rate=0)
        crowd = self.crowd.of(ranking, 0, lambda s: Seen(number=s.number, reached={completed(0): s.accuracy}))
        return would_prune(pruner, study, Seen(number=candidate.number, values={1: candidate.accuracy}), crowd)


def completed(rung: int) -> str:
    """Optuna's name for the mark that a trial leaves on a rung."""
    return f"completed_rung_{rung}"
