"""How sure it is that one setting is worse than another, by dev accuracies that they reached for the same resource.

Two sources of chance are looked at, and the less sure of the two answers counts. The *problems*: a dev accuracy is a
proportion of `problems` problems. The *seeds*: what another seed would have changed shows only where there are several,
and then equal seeds are paired, since they share their data and their start.

Both trials answer the same problems, so their errors go together and the difference is surer than that of two
independent proportions. By how much shows where stages say how they did on each of several equal parts of the problems
(`Evaluation.folds`): then the parts are paired too. Without them, independent proportions are what is computed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

from orchestrator.schema import Evaluation


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A setting on a rung: what each of its seeds reached there. `number` is that of its first trial, `planned` are the
    seeds that have come or may still come, `problems` how many dev problems an accuracy is of, `accuracy` is the mean
    over the seeds."""

    number: int
    reached: Mapping[int, Evaluation]
    planned: frozenset[int]
    problems: int
    accuracy: float


def enough_seeds(one: Standing) -> bool:
    """Whether others can be held to it: by two seeds, where it has two."""
    return len(one.reached) >= min(2, len(one.planned))


def paired_seeds(one: Standing, other: Standing) -> list[int] | None:
    """The seeds that both have reached the rung with; None while more of those that both will have are needed. Two are,
    where there are two: a setting is not judged by the luck of one seed."""
    both = sorted(one.reached.keys() & other.reached.keys())
    return both if len(both) >= min(2, len(one.planned & other.planned)) else None


def p_not_worse(candidate: Standing, bar: Standing) -> float | None:
    """The one-sided p-value of what was seen if `candidate` were as good as `bar`; None where nobody can say yet."""
    seeds = paired_seeds(candidate, bar)
    if seeds is None or not candidate.problems:
        return None
    if not seeds:  # settings without a seed in common: nothing is paired
        ours, theirs = ([e.accuracy for e in standing.reached.values()] for standing in (candidate, bar))
        problems = math.hypot(_error(ours, candidate.problems), _error(theirs, bar.problems))
        spread = math.hypot(_spread(ours), _spread(theirs))
        ahead = fmean(theirs) - fmean(ours)
        return max(
            _upper_tail(_shrunk(ahead, candidate.problems) / problems), _upper_tail(ahead / max(problems, spread))
        )
    ours, theirs = ([standing.reached[seed].accuracy for seed in seeds] for standing in (candidate, bar))
    lead = [b - a for a, b in zip(ours, theirs, strict=True)]
    by_fold = _lead_by_fold(candidate, bar, seeds)
    if by_fold:
        return max(_p_of_leads(by_fold), _p_of_leads(lead))
    error = math.hypot(_error(ours, candidate.problems), _error(theirs, bar.problems))
    by_problems = _upper_tail(_shrunk(fmean(lead), candidate.problems) / error)
    return max(by_problems, _p_of_leads(lead))


def _lead_by_fold(candidate: Standing, bar: Standing, seeds: Sequence[int]) -> list[float]:
    """What the bar had right more often in each part of the problems, as means over `seeds`; none if parts don't fit.
    Over the seeds first: they answer the same problems, and are no further ones."""
    ours, theirs = ([standing.reached[seed].folds for seed in seeds] for standing in (candidate, bar))
    sizes = {len(folds) for folds in (*ours, *theirs)}
    if len(sizes) > 1 or max(sizes) < 2:
        return []
    return [fmean(b) - fmean(a) for a, b in zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True)]


def p_by_seeds(candidate: Standing, bar: Standing) -> float:
    """The one-sided p-value of a t test of what the seeds that both have lost to the bar; 0 for fewer than two."""
    seeds = paired_seeds(candidate, bar) or ()
    return _p_of_leads([bar.reached[seed].accuracy - candidate.reached[seed].accuracy for seed in seeds])


def _p_of_leads(lead: Sequence[float]) -> float:
    if len(lead) < 2:
        return 0.0
    spread = _spread(lead)
    if spread == 0:
        return 0.0 if fmean(lead) > 0 else 1.0
    return upper_tail_of_t(fmean(lead) / spread, len(lead) - 1)


def _error(accuracies: Sequence[float], problems: int) -> float:
    """Standard error of the mean of proportions, each with one success and one failure added (Agresti and Caffo 2000,
    The American Statistician 54:280-288), so that 0 % and 100 % of few problems are not certain."""
    shrunk = [(p * problems + 1) / (problems + 2) for p in accuracies]
    return math.sqrt(sum(p * (1 - p) / (problems + 2) for p in shrunk)) / len(shrunk)


def _shrunk(difference: float, problems: int) -> float:
    """Of two proportions that were shrunk as `_error` has them."""
    return difference * problems / (problems + 2)


def _spread(values: Sequence[float]) -> float:
    """Standard error of a mean, by the spread of what it is the mean of; 0 for a single value."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _upper_tail(z: float) -> float:
    return 1.0 - NormalDist().cdf(z)


def upper_tail_of_t(t: float, degrees: int) -> float:
    """P(T > t) of Student's t with `degrees` >= 1 (Abramowitz and Stegun 26.7.3 and 26.7.4; scipy takes 1 s to
    import)."""
    theta = math.atan(abs(t) / math.sqrt(degrees))
    cosine, term, total = math.cos(theta), 1.0, 1.0
    odd = degrees % 2
    for k in range(2 + odd, degrees, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    inside = math.sin(theta) * total
    if odd:
        inside = 2 / math.pi * (theta + (inside * cosine if degrees > 1 else 0.0))
    tail = (1.0 - inside) / 2
    return tail if t > 0 else 1.0 - tail
