"""What a study's trials say of the points that were asked: nothing else is kept of a search.

A trial's overrides name its point and its seed; the trials of one point differ in the seed only. Pure, and without
Hydra and Optuna: whoever shows a study uses it too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean
from typing import Any

from orchestrator.schema import Study, Trial, TrialState


class PointState(StrEnum):
    """What is known of a point: that of its trials that is over last decides."""

    RUNNING = "running"
    COMPLETED = "completed"
    PRUNED = "pruned"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A point that was asked at `asked_at` and is over since `ended_at` [s since the epoch], infinity while it is not.

    `value`: the metric's mean over the point's seeds, None where there is none. `seen`: of a pruned one, (step, value)
    as far as it came, again means over its seeds. `numbers`: its trials.
    """

    point: tuple[str, ...]
    state: PointState
    value: float | None
    asked_at: float
    ended_at: float
    seen: tuple[tuple[int, float], ...] = ()
    numbers: tuple[int, ...] = ()


def is_search(study: Study) -> bool:
    """Whether trials are added to the study while it runs."""
    return str(study.config.get("search", {}).get("name", "grid")) != "grid"


def point_keys(study: Study) -> tuple[str, ...]:
    """The keys that a point of the study may have values for."""
    keys = (text.partition("=")[0] for text in study.sweep)
    return tuple(key for key in keys if key != "seed")


def known_points(study: Study, trials: Sequence[Trial]) -> list[Known]:
    """The points that the search asked, in the order in which it did. Clones are a person's, and in none of them."""
    keys, metric = point_keys(study), str(study.config["search"]["metric"])
    members: dict[tuple[str, ...], list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        if not trial.cloned_from and (point := _point_of(trial, keys)) is not None:
            members.setdefault(point, []).append(trial)
    return [_known(point, found, metric) for point, found in members.items()]


def unmeasured(study: Study, trials: Sequence[Trial]) -> str:
    """Why nothing can be learned from points: trials have completed, and none of them has the metric. Else empty.

    Test accuracy is not among those to choose from: test problems choose nothing."""
    metric = str(study.config["search"]["metric"])
    completed = [trial for trial in trials if trial.state is TrialState.COMPLETED]
    if not completed or any(metric in trial.metrics for trial in completed):
        return ""
    measured = {name for trial in completed for name in trial.metrics if not name.startswith("accuracy")}
    return f"search.metric={metric}: no trial that completed measured it; there is: {', '.join(sorted(measured))}"


def best_point(known: Sequence[Known], config: Mapping[str, Any]) -> Known | None:
    """The completed point of the best value under the search's direction; the first of equals."""
    sign = -1.0 if config["direction"] == "minimize" else 1.0
    completed = [point for point in known if point.state is PointState.COMPLETED and point.value is not None]
    return max(completed, key=lambda point: sign * (point.value or 0.0), default=None)


def _point_of(trial: Trial, keys: Sequence[str]) -> tuple[str, ...] | None:
    texts = {text.partition("=")[0]: text for text in trial.variant.overrides}
    return tuple(texts[key] for key in keys if key in texts) or None


def _known(point: tuple[str, ...], trials: Sequence[Trial], metric: str) -> Known:
    state = _state(trials, metric)
    seen = _seen(trials, metric) if state is PointState.PRUNED else ()
    value = fmean(trial.metrics[metric] for trial in trials) if state is PointState.COMPLETED else None
    return Known(
        point=point,
        state=state,
        value=seen[-1][1] if seen else value,
        asked_at=trials[0].submitted_at,
        ended_at=math.inf if state is PointState.RUNNING else max(trial.ended_at or 0.0 for trial in trials),
        seen=seen,
        numbers=tuple(trial.number for trial in trials),
    )


def _state(trials: Sequence[Trial], metric: str) -> PointState:
    """One that failed, was cancelled, or has no finite value spoils the mean of its point."""
    if not all(trial.state.terminal for trial in trials):
        return PointState.RUNNING
    completed = [trial for trial in trials if trial.state is TrialState.COMPLETED]
    spoiled = any(not math.isfinite(trial.metrics.get(metric, math.nan)) for trial in completed)
    if spoiled or any(not trial.state.decided for trial in trials):
        return PointState.FAILED
    return PointState.COMPLETED if len(completed) == len(trials) else PointState.PRUNED


def _seen(trials: Sequence[Trial], metric: str) -> tuple[tuple[int, float], ...]:
    """Means over seeds at the steps that all of them reached."""
    series = [_series(trial, metric) for trial in trials]
    shared = sorted(set.intersection(*(set(one) for one in series)))
    return tuple((step, fmean(one[step] for one in series)) for step in shared)


def _series(trial: Trial, metric: str) -> dict[int, float]:
    """What a trial measured of the metric on its way, by step. While training dev accuracy is `eval/accuracy`."""
    if metric == "dev_accuracy" and trial.evaluations:
        found = {int(evaluation.step): evaluation.accuracy for evaluation in trial.evaluations}
    else:
        latest = trial.latest.get("eval/accuracy" if metric == "dev_accuracy" else metric)
        found = {} if latest is None else {int(latest[0]): float(latest[1])}
    return {step: value for step, value in found.items() if math.isfinite(value)}
