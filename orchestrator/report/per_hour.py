"""Which way of training finds most per GPU-hour, and how sure that is. Pure.

What all compared trials of a seed begin with is nobody's merit and nobody's cost. A trial's gain is its test accuracy
above what they share; its *cost* is what its other stages held, each whole, although others may have waited for it too:
what the recipe would have held alone. So a shared teacher is paid for in full by its student. (`gain.py` asks what all
trials share, not just those of the best settings, which are compared here: where a warm-up is swept too, that is less.)

*RL* is training by reinforcement alone, *SFT* supervised fine-tuning alone, behind what all share; a recipe that does
both is neither.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

from orchestrator.accounting import Seat
from orchestrator.report.gain import measured_starts, shared_stages
from orchestrator.report.intervals import Interval, mean_interval
from orchestrator.schema import Allocation, Stage, Trial
from orchestrator.schema.training import ALGORITHMS, GrpoConfig, QuantizeConfig, SftConfig

SECONDS_PER_HOUR: Final = 3600.0

BUDGETS_NOTE: Final = (
    "Points per GPU-hour are a rate, not what an hour would bring: they fall the longer anything is trained, so they "
    "compare the budgets as they were set, not the methods at their best. A recipe that trains for longer and reaches "
    "more may find less per GPU-hour."
)


@dataclass(frozen=True, slots=True)
class Yield:
    """What one trial found, and what that took: accuracy above what all share, device-seconds of its own stages [s]."""

    seed: int
    gain: float
    gpu_seconds: float

    @property
    def per_hour(self) -> float:
        """Accuracy (a fraction) per GPU-hour."""
        return self.gain / self.gpu_seconds * SECONDS_PER_HOUR


def stage_seconds(lines: Sequence[Allocation], found: Mapping[str, Seat], now: float) -> dict[str, float]:
    """Device-seconds that each stage held up to `now` [s since the epoch], by its key, with its seat's vacated ones."""
    held: dict[str, float] = {}
    for line in lines:
        vacated_s = found[line.bundle_id].vacated_s if line.bundle_id in found else 0.0
        held[line.stage_key] = held.get(line.stage_key, 0.0) + line.device_seconds(now) + vacated_s
    return held


def per_hour_entry(groups: Mapping[str, Sequence[Trial]], held: Mapping[str, float]) -> dict[str, Any] | None:
    """The `verdict.per_gpu_hour` of a report (see README): `groups` are the completed trials of the best setting of
    each algorithm or recipe, `held` what `stage_seconds` gives. None unless two of them can be compared."""
    trials = [trial for group in groups.values() for trial in group]
    yields = {name: _yields(group, trials, held) for name, group in groups.items()}
    yields = {name: found for name, found in yields.items() if found}
    if len(yields) < 2:
        return None
    ranking = sorted(yields, key=lambda name: (-fmean(y.per_hour for y in yields[name]), name))
    kinds = {name: kind_of(groups[name], trials) for name in ranking}
    rl, sft = (next((name for name in ranking if kinds[name] == kind), None) for kind in ("rl", "sft"))
    return {
        "ranking": [_entry(name, kinds[name], yields[name]) for name in ranking],
        "comparison": _comparison(ranking[0], ranking[1], yields),
        "rl_against_sft": None if rl is None or sft is None else _comparison(rl, sft, yields),
    }


def kind_of(group: Sequence[Trial], trials: Sequence[Trial]) -> str:
    """`rl`, `sft`, or `mixed`: by the stages that learn, of those that a group has beyond what all `trials` of a seed
    share."""
    of_seed = [trial for trial in trials if trial.variant.seed == group[0].variant.seed]
    own = group[0].variant.stages[len(shared_stages(of_seed)) :]
    schemas = {ALGORITHMS.get(algorithm_of(group[0], stage)) for stage in own} - {QuantizeConfig}
    if schemas == {GrpoConfig}:
        return "rl"
    return "sft" if schemas == {SftConfig} else "mixed"


def algorithm_of(trial: Trial, stage: Stage) -> str:
    """The name of a stage's algorithm."""
    return str(stage.config.get("algorithm", {}).get("name", trial.variant.algorithm))


def per_hour_sentences(entry: Mapping[str, Any] | None, shown: Mapping[str, str]) -> list[str]:
    """The entry in words, with the names as they are `shown`; none without an entry."""
    if entry is None:
        return []
    parts = [f"{shown[each['algorithm']]} {_rate(each['per_gpu_hour'])}{_limits(each)}" for each in entry["ranking"]]
    comparison, claim = entry["comparison"], entry["rl_against_sft"]
    lines = [
        f"Per GPU-hour that a recipe would hold alone, beyond what all share, {shown[comparison['leader']]} "
        f"{'finds most' if comparison['excludes_zero'] else 'is ahead, not surely'}: {'; '.join(parts)}; its lead over "
        f"{shown[comparison['runner_up']]} is {_rate(comparison['difference'])}{_limits(comparison, 'difference')}"
        f"{'' if comparison['difference_low'] is not None else '; of one seed nobody can say how sure that is'}."
    ]
    if claim is not None:
        answer = "undecided" if not claim["excludes_zero"] else "yes" if claim["difference"] > 0 else "no"
        lines.append(
            f"Does RL find more per GPU-hour than SFT here? {answer.capitalize()}: {shown[claim['leader']]} - "
            f"{shown[claim['runner_up']]} is {_rate(claim['difference'])}{_limits(claim, 'difference')}."
        )
    return lines


def _yields(group: Sequence[Trial], trials: Sequence[Trial], held: Mapping[str, float]) -> list[Yield]:
    """Of the trials whose start was measured, and all of whose own stages were run in this study."""
    found = []
    for trial in group:
        of_seed = [other for other in trials if other.variant.seed == trial.variant.seed]
        shared = shared_stages(of_seed)
        start = measured_starts(of_seed).get(shared[-1].key if shared else "")
        costs = [held.get(stage.key, 0.0) for stage in trial.variant.stages[len(shared) :]]
        if start is not None and all(costs):
            found.append(Yield(trial.variant.seed, trial.metrics["accuracy"] - start, sum(costs)))
    return found


def _entry(name: str, kind: str, yields: Sequence[Yield]) -> dict[str, Any]:
    interval = mean_interval([y.per_hour for y in yields])
    return {
        "algorithm": name,
        "kind": kind,
        "seeds": [y.seed for y in yields],
        "gain": fmean(y.gain for y in yields),
        "gpu_seconds": fmean(y.gpu_seconds for y in yields),
        "per_gpu_hour": fmean(y.per_hour for y in yields),
        "low": None if interval is None else interval.low,
        "high": None if interval is None else interval.high,
    }


def _comparison(first: str, second: str, yields: Mapping[str, Sequence[Yield]]) -> dict[str, Any]:
    """`first` - `second`, paired by seed: equal seeds share their start and their data."""
    of_second = {y.seed: y.per_hour for y in yields[second]}
    paired = [y.per_hour - of_second[y.seed] for y in yields[first] if y.seed in of_second]
    means = [fmean(y.per_hour for y in yields[name]) for name in (first, second)]
    interval: Interval | None = mean_interval(paired)
    return {
        "leader": first,
        "runner_up": second,
        "difference": means[0] - means[1] if interval is None else interval.value,
        "difference_low": None if interval is None else interval.low,
        "difference_high": None if interval is None else interval.high,
        "excludes_zero": interval is not None and interval.excludes_zero,
    }


def _rate(fraction: float) -> str:
    return f"{100 * fraction:+,.0f} points"


def _limits(entry: Mapping[str, Any], name: str = "") -> str:
    low, high = (entry[f"{name}_{end}" if name else end] for end in ("low", "high"))
    return "" if low is None else f" [{100 * low:+,.0f}, {100 * high:+,.0f}]"
