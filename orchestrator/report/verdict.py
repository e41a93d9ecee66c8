"""Which algorithm or recipe won, by how much, how sure that is, and what it cost: in numbers and in words.

A group is the trials of one algorithm, or of one recipe with algorithms of its own, whose overrides differ in the seed
only; below both are called algorithms. The winner of an algorithm is chosen by
`dev_accuracy` and reported by `accuracy`, on test problems that no choice has looked at.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from types import MappingProxyType
from typing import Any, Final

from orchestrator.report.gain import NO_OUTCOMES, base_accuracies, bases_of, gain_of
from orchestrator.report.intervals import Interval, mean_interval, newcombe_difference
from orchestrator.report.per_hour import BUDGETS_NOTE, algorithm_of, per_hour_entry, per_hour_sentences
from orchestrator.report.regret import was_stopped
from orchestrator.report.settings import common_overrides, setting_name
from orchestrator.schema import Outcome, Trial, TrialState
from orchestrator.schema.training import ALGORITHMS, DpoConfig, GrpoConfig, RejectionSftConfig

OUTCOMES: Final = (
    "time_to_answer_p50_s",
    "time_to_answer_p95_s",
    "time_to_answer_load_p50_s",
    "time_to_answer_load_p95_s",
    "time_to_first_token_s",
    "decode_tokens_per_s",
    "kv_bytes_per_token",
    "weight_bytes",
    "params_total",
    "params_active",
    "peak_memory_bytes",
)
"""What a setting's answers cost, by the names that a stage and MLflow give it; a report has their means over seeds."""

PROMPTS_NOTE: Final = (
    "{beyond} trained on prompts beyond the supervised set too: a task with a verifier needs no reference answers for "
    "them. {supervised} would need the answers, so that a lead is one of method and prompts together."
)

DRAWN_NOTE: Final = (
    "{name}: all of its settings were stopped early. What stands for it are trials that were drawn among them to be "
    "finished all the same, not its best, so that others are ahead of it by less than is said here, if at all."
)

_ACRONYMS: Final = frozenset({"sft", "grpo", "dpo", "dapo", "gspo", "rloo"})


@dataclass(frozen=True, slots=True)
class Group:
    """Completed trials of one algorithm and one setting, by number; they differ in the seed."""

    algorithm: str
    setting: tuple[str, ...]
    trials: tuple[Trial, ...]

    @property
    def accuracy(self) -> float:
        """Mean test accuracy over the seeds."""
        return fmean(self.values("accuracy"))

    def mean(self, metric: str) -> float | None:
        """Mean of `metric` over the trials that have it; None if none has."""
        values = self.values(metric)
        return fmean(values) if values else None

    def values(self, metric: str) -> list[float]:
        """`metric` of every trial that has it."""
        return [trial.metrics[metric] for trial in self.trials if metric in trial.metrics]


def groups_of(trials: Sequence[Trial]) -> list[Group]:
    """Completed trials with a result, grouped by (algorithm, setting), in order of their first trial.

    A pruned trial is decided but has no result at its full budget, so no mean over seeds may hold it.
    """
    members: dict[tuple[str, tuple[str, ...]], list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        if trial.state is TrialState.COMPLETED and "accuracy" in trial.metrics:
            members.setdefault((trial.variant.algorithm, trial.variant.setting), []).append(trial)
    return [Group(algorithm, setting, tuple(found)) for (algorithm, setting), found in members.items()]


def verdict_of(
    trials: Sequence[Trial],
    held: Mapping[str, float] = MappingProxyType({}),
    outcomes: Mapping[str, Outcome] = NO_OUTCOMES,
) -> dict[str, Any]:
    """The `verdict` of a report; its fields are described in the README beside this file. `held`: device-seconds of
    stages by key (see `per_hour.stage_seconds`); `outcomes`: see `gain.base_accuracies`."""
    bases = base_accuracies(trials, outcomes)
    by_algorithm: dict[str, list[Group]] = {}
    for group in groups_of(trials):
        by_algorithm.setdefault(group.algorithm, []).append(group)
    best = {name: _best_group(found) for name, found in by_algorithm.items()}
    entries = {name: _entry(_best_trial(found), best[name], bases) for name, found in sorted(by_algorithm.items())}
    ranking = sorted(best, key=lambda name: (-best[name].accuracy, name))
    comparison = None
    if len(ranking) > 1:
        comparison = _comparison(best[ranking[0]], best[ranking[1]], entries)
        ranking[:2] = [comparison["leader"], comparison["runner_up"]]
    level = comparison is not None and comparison["difference"] == 0.0
    per_hour = per_hour_entry({name: best[name].trials for name in ranking}, held)
    sentences = per_hour_sentences(per_hour, {name: shown(name) for name in ranking})
    since = "what all share" if len(ranking) > 1 and all(bases_of(trials).values()) else "its start"
    common = common_overrides(trial.variant.overrides for trial in trials)
    accounts = [_account(name, entries[name], since, common, rated=per_hour is not None) for name in ranking]
    told = [_opening(ranking, comparison), *_best_trials_sentence(comparison), *sentences, *accounts]
    return {
        "winner": ranking[0] if ranking and not level else None,
        "settled": comparison is not None and comparison["excludes_zero"],
        "text": " ".join(told),
        "sentences": told,
        "algorithms": entries,
        "comparison": comparison,
        "per_gpu_hour": per_hour,
        "notes": [*_notes(trials, entries), *([BUDGETS_NOTE] if per_hour else [])],
    }


def accuracy_interval(metrics: Mapping[str, float | None]) -> Interval | None:
    """Test accuracy with the 95 % limits that the stage measured; None if it gave none."""
    value, low, high = (metrics.get(name) for name in ("accuracy", "accuracy_low", "accuracy_high"))
    return None if value is None or low is None or high is None else Interval(value, low, high)


def _dev(trial: Trial) -> float:
    """What choices go by. A trial that lacks it is never chosen over one that has it."""
    return trial.metrics.get("dev_accuracy", -1.0)


def _best_trial(groups: Sequence[Group]) -> Trial:
    return max((trial for group in groups for trial in group.trials), key=lambda trial: (_dev(trial), -trial.number))


def _best_group(groups: Sequence[Group]) -> Group:
    """By mean dev accuracy over its seeds; ties go to the group that came first."""
    return max(groups, key=lambda group: (fmean(_dev(trial) for trial in group.trials), -group.trials[0].number))


def _entry(best: Trial, group: Group, bases: Mapping[str, float]) -> dict[str, Any]:
    return {"best_trial": _trial_entry(best, bases), "best_setting": setting_entry(group, bases)}


def _trial_entry(trial: Trial, bases: Mapping[str, float]) -> dict[str, Any]:
    names = ("dev_accuracy", "accuracy", "accuracy_low", "accuracy_high", "start_accuracy")
    measured: dict[str, float | None] = {name: trial.metrics.get(name) for name in names}
    return {
        "id": trial.trial_id,
        "number": trial.number,
        "overrides": list(trial.variant.overrides),
        **measured,
        "gain": gain_of(trial, bases),
        "gpu_seconds": trial.gpu_seconds,
    }


def setting_entry(group: Group, bases: Mapping[str, float]) -> dict[str, Any]:
    """One group's means over its seeds; accuracy with Student's 95 % limits over seeds, null for a single seed.
    `bases`: see `gain.base_accuracies`."""
    accuracies = group.values("accuracy")
    spread = mean_interval(accuracies)
    gains = [gain for trial in group.trials if (gain := gain_of(trial, bases)) is not None]
    gain = fmean(gains) if gains else None
    gpu_seconds = fmean(trial.gpu_seconds for trial in group.trials)
    return {
        "overrides": list(group.setting),
        "seeds": [trial.variant.seed for trial in group.trials],
        "accuracy_mean": group.accuracy,
        "accuracy_stdev": stdev(accuracies) if len(accuracies) > 1 else None,
        "accuracy_low": None if spread is None else max(0.0, spread.low),
        "accuracy_high": None if spread is None else min(1.0, spread.high),
        "start_accuracy_mean": group.mean("start_accuracy"),
        "gain_mean": gain,
        "gpu_seconds_mean": gpu_seconds,
        "gain_per_gpu_second": gain / gpu_seconds if gain is not None and gpu_seconds > 0.0 else None,
        "tokens_per_answer_mean": group.mean("tokens_per_answer"),
        **{f"{name}_mean": group.mean(name) for name in OUTCOMES},
    }


def _comparison(first: Group, second: Group, entries: Mapping[str, Any]) -> dict[str, Any]:
    """The best settings of two algorithms, the one ahead as `leader`.

    Paired by seed if at least two seeds are in both, since equal seeds share their warm-up and their data. With fewer,
    Newcombe's interval of the best trials, which sees the sampling of test problems but not what another seed changes.
    """
    trials = _best_trials_difference(first, second, entries)
    interval, method, basis = mean_interval(_paired_differences(first, second)), "paired-by-seed", "equal seeds paired"
    if interval is None:
        interval, method, basis = trials, "newcombe", "one trial each; another seed may differ by more"
    if interval is None:
        value = first.accuracy - second.accuracy
        interval, method, basis = Interval(value, -1.0, 1.0), "none", "no intervals were measured"
    if interval.value < 0.0:
        first, second, interval = second, first, interval.negated()
        trials = None if trials is None else trials.negated()
    return {
        "leader": first.algorithm,
        "runner_up": second.algorithm,
        "difference": interval.value,
        "difference_low": interval.low,
        "difference_high": interval.high,
        "method": method,
        "basis": basis,
        "excludes_zero": interval.excludes_zero,
        "best_trials": None if trials is None else _best_trials_entry(first, second, trials, entries),
    }


def _best_trials_entry(first: Group, second: Group, gap: Interval, entries: Mapping[str, Any]) -> dict[str, Any]:
    one, other = (accuracy_interval(entries[group.algorithm]["best_trial"]) for group in (first, second))
    overlap = one is not None and other is not None and one.overlaps(other)
    limits = {"difference": gap.value, "difference_low": gap.low, "difference_high": gap.high}
    return {**limits, "excludes_zero": gap.excludes_zero, "intervals_overlap": overlap}


def _best_trials_difference(first: Group, second: Group, entries: Mapping[str, Any]) -> Interval | None:
    one, other = (accuracy_interval(entries[group.algorithm]["best_trial"]) for group in (first, second))
    return None if one is None or other is None else newcombe_difference(one, other)


def _paired_differences(first: Group, second: Group) -> list[float]:
    other = {trial.variant.seed: trial.metrics["accuracy"] for trial in second.trials}
    return [t.metrics["accuracy"] - other[t.variant.seed] for t in first.trials if t.variant.seed in other]


def _notes(trials: Sequence[Trial], entries: Mapping[str, Any]) -> list[str]:
    undecided = sorted({trial.variant.algorithm for trial in trials} - set(entries))
    notes = [f"{shown(name)}: no trial has trained to its end." for name in undecided]
    notes += [DRAWN_NOTE.format(name=shown(name)) for name in sorted(entries) if _was_stopped_altogether(trials, name)]
    beyond = {trial.variant.algorithm for trial in trials if _goes_beyond(trial)}
    supervised = {trial.variant.algorithm for trial in trials} - beyond
    if beyond and supervised:
        names = {"beyond": _listed(beyond), "supervised": _listed(supervised)}
        notes.append(PROMPTS_NOTE.format(**names))
    return notes


def _was_stopped_altogether(trials: Sequence[Trial], algorithm: str) -> bool:
    """Whether all that has completed of an algorithm was stopped early, and drawn to be finished all the same."""
    completed = [t for t in trials if t.variant.algorithm == algorithm and t.state is TrialState.COMPLETED]
    return bool(completed) and all(was_stopped(trial) for trial in completed)


def _goes_beyond(trial: Trial) -> bool:
    """Whether a stage of it answers prompts that have no reference answer."""
    schemas = (ALGORITHMS.get(algorithm_of(trial, stage)) for stage in trial.variant.stages)
    return any(schema in (GrpoConfig, RejectionSftConfig, DpoConfig) for schema in schemas)


def _listed(names: Collection[str]) -> str:
    *others, last = (shown(name) for name in sorted(names))
    return f"{', '.join(others)} and {last}" if others else last


def shown(name: str) -> str:
    """The name of an algorithm or a recipe in a sentence."""
    return name.upper() if name in _ACRONYMS else name


def _opening(ranking: Sequence[str], comparison: Mapping[str, Any] | None) -> str:
    if not ranking:
        return "Nothing is decided: no trial has trained to its end."
    if comparison is None:
        return f"Only {shown(ranking[0])} has results, so there is nothing to compare it with."
    leader, runner_up = shown(comparison["leader"]), shown(comparison["runner_up"])
    if comparison["difference"] == 0.0:
        text = f"{leader} and {runner_up} are level on held-out test problems"
    elif comparison["excludes_zero"]:
        text = f"{leader} wins: {_points(comparison['difference'])} over {runner_up} on held-out test problems"
    else:
        text = f"{leader} is ahead of {runner_up} by {_points(comparison['difference'])} on held-out test problems"
    if comparison["method"] == "none":
        return f"{text}; no intervals were measured, so nobody can say how sure that is."
    low, high = comparison["difference_low"], comparison["difference_high"]
    text += f" (95 % interval {100 * low:+.1f} to {100 * high:+.1f}, {comparison['method']}: {comparison['basis']})"
    undecided = "" if comparison["excludes_zero"] else "; zero is not excluded, so more seeds are needed to settle it"
    return f"{text}{undecided}."


def _best_trials_sentence(comparison: Mapping[str, Any] | None) -> list[str]:
    if comparison is None or comparison["method"] == "none" or comparison["best_trials"] is None:
        return []
    best = comparison["best_trials"]
    overlap = "overlap" if best["intervals_overlap"] else "do not overlap"
    if comparison["method"] == "newcombe":
        return [f"The own intervals of the two trials {overlap}."]
    limits = f"{100 * best['difference_low']:+.1f} to {100 * best['difference_high']:+.1f}"
    return [
        f"The best trials differ by {_points(best['difference'])} (95 % interval {limits}, newcombe); their own "
        f"intervals {overlap}."
    ]


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.1f} points"


def _account(name: str, entry: Mapping[str, Any], since: str, common: Collection[str], *, rated: bool) -> str:
    """`since`: what gains are above. `common`: overrides that all trials have. `rated`: it was said already what is
    found per GPU-hour."""
    setting, best = entry["best_setting"], entry["best_trial"]
    seeds = len(setting["seeds"])
    spread = "" if setting["accuracy_stdev"] is None else f" ± {100 * setting['accuracy_stdev']:.1f}"
    text = (
        f"{shown(name)}: best setting {setting_name(setting['overrides'], common)}, "
        f"{100 * setting['accuracy_mean']:.1f}{spread} % over {seeds} seed{'s' if seeds != 1 else ''}"
    )
    if (gain := setting["gain_mean"]) is not None:
        text += f", {100 * abs(gain):.1f} points {'above' if gain >= 0 else 'BELOW'} {since}"
    if not rated and setting["gain_per_gpu_second"] is not None:
        text += f", {100 * setting['gain_per_gpu_second']:+.2f} points per GPU-second"
    text += f"; best trial by dev accuracy #{best['number']}: {100 * best['accuracy']:.1f} %"
    if best["accuracy_low"] is not None and best["accuracy_high"] is not None:
        text += f" [{100 * best['accuracy_low']:.1f}, {100 * best['accuracy_high']:.1f}]"
    return text + "."
