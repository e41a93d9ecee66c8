"""What a simulated run came to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from orchestrator.schema import TrialState
from orchestrator.simulation.recorder import Ratios, Recorder

_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fairness:
    """Finish-time ratios: a trial's time from submission to end, in parts of what it would have taken alone."""

    mean: float
    max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One simulated run. Times are in seconds, shares are fractions but for the unallocated ones, which are percent.

    What can't be said is None: everything about time under a protocol without, the unallocated shares under one with.
    `experiments_per_gpu_hour` is of the GPU-hours that were held, as everywhere; `experiments_per_cluster_gpu_hour` of
    all that there were from the first submission to the last end. `fragmentation` is the part of all devices that
    is free and of no use to the demands of the workload. `occupancy` are points (time, share of devices held since the
    point before, trials waiting). `overrides` are the values of what was swept.
    """

    policy: str
    seed: int
    overrides: Mapping[str, str]
    unallocated_share_at_100: float | None = None
    unallocated_share_at_130: float | None = None
    makespan_s: float | None = None
    jct_mean_s: float | None = None
    jct_p50_s: float | None = None
    jct_p99_s: float | None = None
    wait_mean_s: float | None = None
    wait_p50_s: float | None = None
    wait_p99_s: float | None = None
    gang_wait_mean_s: float | None = None
    gang_wait_p99_s: float | None = None
    utilisation: float | None = None
    experiments_per_gpu_hour: float | None = None
    experiments_per_cluster_gpu_hour: float | None = None
    gpu_hours_held: float | None = None
    fragmentation: float | None = None
    fairness: Fairness | None = None
    fairness_by_tenant: Mapping[str, Fairness] = field(default_factory=dict)
    preemptions: int = 0
    arrived: int = 0
    placed: int = 0
    completed: int = 0
    failed: int = 0
    dropped: int = 0
    unfinished: int = 0
    skipped_rows: int = 0
    wall_s: float = 0.0
    occupancy: tuple[tuple[float, float, float], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data; without the occupancy, which is for plots."""
        plain = {name: getattr(self, name) for name in self.__slots__ if name != "occupancy"}
        plain["overrides"] = dict(self.overrides)
        plain["fairness"] = _plain(self.fairness)
        plain["fairness_by_tenant"] = {name: _plain(f) for name, f in sorted(self.fairness_by_tenant.items())}
        return plain


def measures(recorder: Recorder, *, timed: bool) -> dict[str, Any]:
    """The fields of `Result` that a recorder knows; `timed`: whether its times mean anything."""
    counts = recorder.by_state
    known: dict[str, Any] = {
        "preemptions": recorder.preemptions,
        "placed": len(recorder.wait_s),
        "completed": counts[TrialState.COMPLETED],
        "failed": counts[TrialState.FAILED],
        "dropped": counts[TrialState.CANCELLED],
        "unfinished": recorder.unfinished if timed else recorder.unfinished - len(recorder.wait_s),
        "arrived": recorder.unfinished + sum(counts.values()),
        "occupancy": occupancy(recorder),
    }
    return known | (_timed(recorder) if timed else {"utilisation": recorder.held_now})


def _timed(recorder: Recorder) -> dict[str, Any]:
    began = recorder.began_at if recorder.began_at is not None else 0.0
    held_hours = recorder.held_device_s / _SECONDS_PER_HOUR
    there_hours = recorder.series.there / _SECONDS_PER_HOUR
    decided = sum(count for state, count in recorder.by_state.items() if state.decided)
    every = Ratios()
    for ratios in recorder.ratios.values():
        every.add_all(ratios)
    return {
        "makespan_s": max(0.0, recorder.ended_at - began),
        "jct_mean_s": _mean(recorder.completion_s),
        "jct_p50_s": _percentile(recorder.completion_s, 50),
        "jct_p99_s": _percentile(recorder.completion_s, 99),
        "wait_mean_s": _mean(recorder.wait_s),
        "wait_p50_s": _percentile(recorder.wait_s, 50),
        "wait_p99_s": _percentile(recorder.wait_s, 99),
        "gang_wait_mean_s": _mean(recorder.gang_wait_s),
        "gang_wait_p99_s": _percentile(recorder.gang_wait_s, 99),
        "utilisation": recorder.series.held / recorder.series.there if recorder.series.there else None,
        "experiments_per_gpu_hour": decided / held_hours if held_hours else None,
        "experiments_per_cluster_gpu_hour": decided / there_hours if there_hours else None,
        "gpu_hours_held": held_hours,
        "fairness": _fairness(every),
        "fairness_by_tenant": {name: _fairness(ratios) for name, ratios in recorder.ratios.items()},
    }


def occupancy(recorder: Recorder) -> tuple[tuple[float, float, float], ...]:
    """(time, share of devices held since the point before, mean number of trials waiting since then), by time [s]. The
    first point says when it begins, with zeros."""
    points = recorder.series.points
    means = (
        (at, (held - held_before) / max(1e-12, there - there_before), (waiting - waiting_before) / (at - before))
        for (before, held_before, there_before, waiting_before), (at, held, there, waiting) in pairwise(points)
        if at > before
    )
    return (*((at, 0.0, 0.0) for at, *_ in points[:1]), *means)


def _fairness(ratios: Ratios) -> Fairness | None:
    return Fairness(mean=ratios.total / ratios.count, max=ratios.largest) if ratios.count else None


def _plain(fairness: Fairness | None) -> dict[str, float] | None:
    return None if fairness is None else {"mean": fairness.mean, "max": fairness.max}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _percentile(values: Sequence[float], percent: float) -> float | None:
    """Interpolated linearly between the two nearest values."""
    return float(np.percentile(values, percent)) if len(values) else None
