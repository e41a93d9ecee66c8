"""The median rule (Golovin et al. 2017, Vizier) by Optuna's `MedianPruner`: a setting goes on while it is as good as
half of the others were for the same resource. Whoever has reached the rung counts, not only those that have ended: in a
study whose trials run side by side nobody ends before it is too late."""

from collections.abc import Sequence

from orchestrator.stopping.evidence import Standing, p_not_worse
from orchestrator.stopping.optuna_view import Crowd, Seen, would_prune


class Median:
    """See `rule.Rule`."""

    name = "median"

    def __init__(self) -> None:
        self.crowd = Crowd()

    def bar(self, ranking: Sequence[Standing]) -> Standing:
        """For whoever is behind it, the median of the others, the worse of the two in the middle if there are two."""
        return ranking[(len(ranking) - 1) // 2]

    def bar_in_words(self) -> str:
        """Whose accuracy the bar is."""
        return "the median of the others"

    def p_not_worse(self, candidate: Standing, bar: Standing) -> float | None:
        """By problems and seeds."""
        return p_not_worse(candidate, bar)

    def stops(self, study: str, level: int, candidate: Standing, ranking: Sequence[Standing], alpha: float) -> bool:
        """The pruner sees the others as completed: see above."""
        from optuna.pruners import MedianPruner

        crowd = self.crowd.of(ranking, 0, lambda s: Seen(number=s.number, values={1: s.accuracy}, final=s.accuracy))
        candidate_seen = Seen(number=candidate.number, values={1: candidate.accuracy})
        return would_prune(MedianPruner(n_startup_trials=1), study, candidate_seen, crowd)
