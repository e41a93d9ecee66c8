"""A signed-rank test against the best setting by Optuna's `WilcoxonPruner`.

What is paired are independent parts of the dev problems (`Evaluation.folds`), each answered by both, per seed that both
have; where a stage doesn't report folds, one pair per seed. Evaluations of one trial at different steps are no pairs:
they depend on each other, and a test that takes them for independent ones is sure of anything. With fewer than five
pairs no test of ranks can be 95 % sure, so that one seed without folds is never stopped by this policy.
"""

import warnings
from collections.abc import Sequence

from orchestrator.stopping.evidence import Standing, paired_seeds
from orchestrator.stopping.optuna_view import Seen, frozen, would_prune

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
        """The p-value of the pruner's own test."""
        pairs = _pairs(candidate, bar)
        if len(pairs) < _LEAST_PAIRS:
            return None
        from scipy.stats import wilcoxon

        lead = [ours - theirs for ours, theirs in pairs]
        return float(wilcoxon(lead, alternative="less", zero_method="zsplit").pvalue)

    def stops(self, study: str, level: int, candidate: Standing, ranking: Sequence[Standing], alpha: float) -> bool:
        """The pruner sees a step per pair, and the best setting as the only one that has completed."""
        from optuna.exceptions import ExperimentalWarning
        from optuna.pruners import WilcoxonPruner

        pairs = _pairs(candidate, ranking[0])
        if len(pairs) < _LEAST_PAIRS:
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            pruner = WilcoxonPruner(p_threshold=alpha)
        theirs = {step: value for step, (_, value) in enumerate(pairs)}
        best = Seen(number=ranking[0].number, values=theirs, final=ranking[0].accuracy)
        ours = {step: value for step, (value, _) in enumerate(pairs)}
        return would_prune(pruner, study, Seen(number=candidate.number, values=ours), [frozen(best)])


def _pairs(candidate: Standing, bar: Standing) -> list[tuple[float, float]]:
    """What the two reached on equal problems, seed by seed and fold by fold."""
    pairs: list[tuple[float, float]] = []
    for seed in paired_seeds(candidate, bar) or ():
        ours, theirs = candidate.reached[seed], bar.reached[seed]
        if ours.folds and len(ours.folds) == len(theirs.folds):
            pairs += zip(ours.folds, theirs.folds, strict=True)
        else:
            pairs.append((ours.accuracy, theirs.accuracy))
    return pairs
