"""How good the estimates of memory and duration were, and how busy what ran kept its share of its devices."""

from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

from orchestrator.schema import Allocation, Trial


def estimate_errors(trials: Sequence[Trial], allocations: Sequence[Allocation]) -> dict[str, Any]:
    """Of the closed lines of the ledger. `memory`: what was thought to be needed over the most that was used, in all
    and by where the thought came from; below 1 was too little. `duration`: the error of the hold expected when a run
    was placed, relative to that hold, of runs that ended with their stage done. Null where there is nothing to tell by.
    """
    closed = [line for line in allocations if line.closed_at is not None]
    measured = [line for line in closed if line.peak_memory_bytes and line.estimated_memory_bytes]
    sources = sorted({line.estimated_from for line in measured})
    busy = [line.utilisation for line in closed if line.utilisation is not None]
    return {
        "memory": _memory(measured),
        "memory_by_source": [
            {"source": source, **_memory([line for line in measured if line.estimated_from == source])}
            for source in sources
        ],
        "duration": _duration(_whole_runs(trials, closed)),
        "utilisation": {"runs": len(busy), "mean": fmean(busy) if busy else None},
    }


def estimate_metrics(errors: dict[str, Any]) -> dict[str, float]:
    """The headline numbers under flat names; those that nothing is known of are left out."""
    found = {
        "estimate_memory_ratio_p50": errors["memory"]["ratio_median"],
        "estimate_memory_ratio_worst": errors["memory"]["ratio_low"],
        "estimate_duration_error_p50": errors["duration"]["error_median"],
        "estimate_duration_inside": errors["duration"]["inside"],
        "utilisation_mean": errors["utilisation"]["mean"],
    }
    return {name: value for name, value in found.items() if value is not None}


def _memory(lines: Sequence[Allocation]) -> dict[str, Any]:
    ratios = [line.estimated_memory_bytes / line.peak_memory_bytes for line in lines]
    return {
        "runs": len(ratios),
        "ratio_median": median(ratios) if ratios else None,
        "ratio_low": min(ratios, default=None),
        "ratio_high": max(ratios, default=None),
    }


def _duration(lines: Sequence[Allocation]) -> dict[str, Any]:
    errors, inside = [], []
    for line in lines:
        held_s = (line.closed_at or 0.0) - line.opened_at
        if line.expected_s is None or held_s <= 0.0:
            continue
        errors.append(abs(line.expected_s - held_s) / held_s)
        if line.expected_low_s is not None and line.expected_high_s is not None:
            inside.append(line.expected_low_s <= held_s <= line.expected_high_s)
    return {
        "runs": len(errors),
        "error_median": median(errors) if errors else None,
        "error_worst": max(errors, default=None),
        "inside": fmean(inside) if inside else None,
    }


def _whole_runs(trials: Sequence[Trial], closed: Sequence[Allocation]) -> list[Allocation]:
    """The last line of every stage that is behind a trial which ran it: what was expected then was a whole hold."""
    last = {line.stage_key: line for line in sorted(closed, key=lambda line: line.opened_at)}
    done = {
        stage.key
        for trial in trials
        for stage in trial.variant.stages[: trial.stage_index]
        if stage.key not in trial.reused_stages
    }
    return [line for key, line in last.items() if key in done]
