"""Hyperband (Li et al. 2018, JMLR 18:185) by Optuna's `HyperbandPruner`: settings are dealt into brackets, and those of
bracket b are left alone on their first b rungs. It hedges against a first rung that says little."""

from collections.abc import Sequence

from orchestrator.stopping.evidence import Standing
from orchestrator.stopping.optuna_view import Seen, would_prune
from orchestrator.stopping.successive_halving import SuccessiveHalving, completed


class Hyperband(SuccessiveHalving):
    """See `rule.Rule`. The bar is the best part of all brackets, the pruner's the best part of its own: a setting is
    stopped if it is behind both."""

    name = "hyperband"

    def __init__(self, factor: int, brackets: int) -> None:
        super().__init__(factor)
        self.brackets = brackets

    def stops(self, study: str, level: int, candidate: Standing, ranking: Sequence[Standing], alpha: float) -> bool:
        """In bracket b the pruner's first rung is this setting's rung b, and it goes on to those behind it: the marks
        of this one are left under the names of all of them, so that whichever it looks at is this one."""
        from optuna.pruners import HyperbandPruner

        top = int(1.5 * self.factor ** (self.brackets - 1))  # between two powers, so that no rounding costs a bracket
        pruner = HyperbandPruner(min_resource=1, max_resource=top, reduction_factor=self.factor)
        names = [completed(rung) for rung in range(level + 1)]
        crowd = self.crowd.of(ranking, level, lambda s: Seen(number=s.number, reached=dict.fromkeys(names, s.accuracy)))
        now = Seen(number=candidate.number, values={self.factor**level: candidate.accuracy})
        return would_prune(pruner, study, now, crowd)
