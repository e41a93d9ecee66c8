"""Which settings nobody beats: accuracy against time to answer, and accuracy against GPU-hours. Pure.

A user has a *patience*: an answer that comes later is worth nothing, however smart it is. A setting is *in time* where
95 % of its answers are (`time_to_answer_p95_s`); those that are not stand on no front.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.report.grid import Grid, limits, milliseconds, number, percent
from orchestrator.report.per_hour import SECONDS_PER_HOUR
from orchestrator.report.settings import common_in, setting_name


def pareto_front(points: Sequence[tuple[float, float]]) -> frozenset[int]:
    """Indices of the points (cost, worth) that no other point beats: none is as cheap and as good, and better in one.

    Equal points stand on the front together. O(n log n).
    """
    front: set[int] = set()
    best = float("-inf")
    by_cost: dict[float, list[int]] = {}
    for index, (cost, _) in enumerate(points):
        by_cost.setdefault(cost, []).append(index)
    for _, group in sorted(by_cost.items()):
        worth = max(points[index][1] for index in group)
        if worth > best:
            front |= {index for index in group if points[index][1] == worth}
            best = worth
    return frozenset(front)


def pareto_entry(settings: Sequence[Mapping[str, Any]], patience_s: float | None) -> dict[str, Any]:
    """The `pareto` of a report, of its `settings`; its fields are described in the README beside this file.

    `patience_s`: how long the user waits for an answer [s]; None is for ever.
    """
    points = [_point(setting, patience_s) for setting in settings]
    for front, cost in (("on_time_front", "time_to_answer_p50_s"), ("on_gpu_hours_front", "gpu_hours")):
        there = [point for point in points if point["in_time"] is not False and point[cost] is not None]
        on_front = pareto_front([(point[cost], point["accuracy"]) for point in there])
        for index, point in enumerate(there):
            point[front] = index in on_front
    return {"patience_s": patience_s, "points": points}


def with_patience(document: Mapping[str, Any], patience_s: float) -> dict[str, Any]:
    """The document as it is for a user who waits `patience_s` seconds."""
    return {**document, "pareto": pareto_entry(document["settings"], patience_s)}


def _point(setting: Mapping[str, Any], patience_s: float | None) -> dict[str, Any]:
    late = setting["time_to_answer_p95_s_mean"]
    in_time = None if patience_s is None or late is None else late <= patience_s
    accuracy = setting["accuracy_mean"]
    return {
        "algorithm": setting["algorithm"],
        "overrides": setting["overrides"],
        "accuracy": accuracy,
        "accuracy_low": setting["accuracy_low"],
        "accuracy_high": setting["accuracy_high"],
        "time_to_answer_p50_s": setting["time_to_answer_p50_s_mean"],
        "time_to_answer_p95_s": late,
        "gpu_hours": setting["gpu_seconds_mean"] / SECONDS_PER_HOUR,
        "in_time": in_time,
        "accuracy_in_time": 0.0 if in_time is False else accuracy,
        "on_time_front": False,
        "on_gpu_hours_front": False,
    }


def pareto_grid(document: Mapping[str, Any]) -> Grid:
    """One row per setting, the fastest first, marked where it stands on a front."""
    pareto = document["pareto"]
    patience_s = pareto["patience_s"]
    header = ("algorithm", "setting", "acc %", "95 %", "p50 ms", "p95 ms", "GPU-s", "front")
    common, for_ever = common_in(document), float("inf")
    points = sorted(
        pareto["points"],
        key=lambda point: for_ever if point["time_to_answer_p50_s"] is None else point["time_to_answer_p50_s"],
    )
    rows = tuple(
        (
            point["algorithm"],
            setting_name(point["overrides"], common),
            percent(point["accuracy"]),
            limits(point["accuracy_low"], point["accuracy_high"]),
            milliseconds(point["time_to_answer_p50_s"]),
            milliseconds(point["time_to_answer_p95_s"]),
            number(point["gpu_hours"] * SECONDS_PER_HOUR, 1),
            _mark(point),
        )
        for point in points
    )
    title = "Pareto fronts: accuracy against time to answer (time), GPU-seconds (cost)"
    if patience_s is not None:
        title += f"; who waits {patience_s:g} s has left before what is too late"
    return Grid(title, header, rows, frozenset(header[2:7]))


def _mark(point: Mapping[str, Any]) -> str:
    if point["in_time"] is False:
        return "too late"
    fronts = (("on_time_front", "time"), ("on_gpu_hours_front", "cost"))
    return " + ".join(word for name, word in fronts if point[name]) or "beaten"
