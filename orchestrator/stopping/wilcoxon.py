"""A signed-rank test against the best setting by Optuna's `WilcoxonPruner`.

What is paired are independent parts of the dev problems (`Evaluation.folds`), each answered by both, per seed that both
have; where a stage doesn't report folds, one pair per seed. Evaluations of one trial at different steps are no pairs:
they depend on each other, and a test that takes them for independent ones is sure of anything. With fewer than five
pairs no test of ranks can be 95 % sure, so that one seed without folds is never stopped by this policy.

Folds say how sure it is of these weights. What another seed would have changed they don't say: with several seeds the
less sure of this test and of a t test of what the seeds lost counts, as it does for the other rules.
"""

import warnings
from collections.abc import Sequence

from orchestrator.stopping.evidence import Standing, p_by_seeds, paired_seeds
from orchestrator.stopping.optuna_view import Seen, frozen, would_prune
from orchestrator.stopping.signed_rank import p_less

_LEAST_PAIRS = 2


class Wilcoxon:
    """See `rule.Rule`."""

    name = "wilcoxon"

    def bar(self, ranking: Sequence[Standing]) -> Standing:
        """The best one."""
        return ranking[0]

    def bar_in_words(self) -> str:
        """Whose accuracy the bar is."""
        return "the best one"

    def p_not_worse(self, candidate: Standing, bar: Standing) -> float | None:
        """By problems, exactly, and by seeds."""
        differences = _differences(candidate, bar)
        if len(differences) < _LEAST_PAIRS:
            return None
        return max(p_less(differences), p_by_seeds(candidate, bar))

    def stops(self, study: str, level: int, candidate: Standing, ranking: Sequence[Standing], alpha: float) -> bool:
        """The pruner sees a step per pair, and in it what the candidate lost there to the best setting, which is the
        only one that has completed. It has a p-value of its own: an approximation from 14 pairs on."""
        from optuna.exceptions import ExperimentalWarning
        from optuna.pruners import WilcoxonPruner

        differences = _differences(candidate, ranking[0])
        if len(differences) < _LEAST_PAIRS:
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            pruner = WilcoxonPruner(p_threshold=alpha)
        best = Seen(number=ranking[0].number, values=dict.fromkeys(range(len(differences)), 0.0), final=0.0)
        now = Seen(number=candidate.number, values=dict(enumerate(differences)))
        return would_prune(pruner, study, now, [frozen(best)])


def _differences(candidate: Standing, bar: Standing) -> list[float]:
    """What the candidate had right more often on equal problems, seed by seed and fold by fold. Rounded: accuracies are
    fractions of few problems, and differences that are equal shall be so to the last bit."""
    found: list[float] = []
    for seed in paired_seeds(candidate, bar) or ():
        ours, theirs = candidate.reached[seed], bar.reached[seed]
        paired = bool(ours.folds) and len(ours.folds) == len(theirs.folds)
        mine, other = (ours.folds, theirs.folds) if paired else ((ours.accuracy,), (theirs.accuracy,))
        found += (round(a - b, 9) for a, b in zip(mine, other, strict=True))
    return found
