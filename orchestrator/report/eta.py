"""How good the first expectation of each trial was: predicted against actual start and end."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from orchestrator.schema import Allocation, Prediction, Trial, TrialState


def eta_errors(
    trials: Sequence[Trial], allocations: Sequence[Allocation], predictions: Sequence[Prediction]
) -> dict[str, Any]:
    """`start` and `end` compare what has happened by now; absolute errors in seconds, relative ones as a fraction of
    the predicted lead time. A trial's end counts if it was trained to its full budget, which is what was predicted."""
    first_lines = _first_lines(allocations)
    by_id = {trial.trial_id: trial for trial in trials}
    starts: list[tuple[float, float]] = []
    ends: list[tuple[float, float]] = []
    for prediction in predictions:
        opened = [at for at in first_lines.get(prediction.trial_id, ()) if at >= prediction.made_at]
        if opened:
            starts.append((abs(opened[0] - prediction.start_at), prediction.start_at - prediction.made_at))
        trial = by_id.get(prediction.trial_id)
        if trial is not None and trial.state is TrialState.COMPLETED and trial.ended_at is not None:
            ends.append((abs(trial.ended_at - prediction.end_at), prediction.end_at - prediction.made_at))
    return {"predictions": len(predictions), "start": _summary(starts), "end": _summary(ends)}


def _first_lines(allocations: Sequence[Allocation]) -> Mapping[str, Sequence[float]]:
    """When each trial began to hold devices in its own name [s since the epoch], in order."""
    opened: dict[str, list[float]] = {}
    for line in sorted(allocations, key=lambda line: line.opened_at):
        if line.trial_ids:
            opened.setdefault(line.trial_ids[0], []).append(line.opened_at)
    return opened


def _summary(errors: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Of (absolute error [s], predicted lead time [s]); null where there is nothing to average."""
    absolute = [error for error, _ in errors]
    relative = [error / lead_s for error, lead_s in errors if lead_s > 0.0]
    return {
        "count": len(errors),
        "mean_s": fmean(absolute) if absolute else None,
        "median_s": median(absolute) if absolute else None,
        "p90_s": _p90(absolute),
        "mean_relative": fmean(relative) if relative else None,
        "median_relative": median(relative) if relative else None,
        "p90_relative": _p90(relative),
    }


def _p90(values: Sequence[float]) -> float | None:
    """The least value that nine in ten are not above (nearest rank)."""
    return sorted(values)[math.ceil(0.9 * len(values)) - 1] if values else None
