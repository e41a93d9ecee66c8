"""The arithmetic of experiments per GPU-hour. Pure: trials and ledger lines in, numbers out.

An experiment is *decided* when it gave its answer: trained to its full budget, or stopped early by a policy that had
the evidence. A failure, a cancellation or a crash is not one. GPU-hours are *held*, not used: time that a device sat
idle inside a hold is paid for too, and so is what members of a program that goes on have left of their device while
nobody else took it (`orchestrator.accounting`). The ledger's lines carry share and device count, so two trials that
share one device for an hour hold one GPU-hour between them.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from orchestrator.accounting import seats
from orchestrator.schema import Allocation, Trial, TrialState

EXPLANATIONS: Final[Mapping[str, str]] = {
    "experiments_per_gpu_hour": "experiments decided / GPU-hours held",
    "completed_equivalent_per_gpu_hour": (
        "sum over trials of the fraction of the full budget that each has results for / GPU-hours held; pruning does "
        "not lift it, reused stages do (see completed_equivalent_reused)"
    ),
    "completed_equivalent_reused": (
        "the part of that sum (in whole experiments, not per hour) that came from stages which another trial or an "
        "earlier study ran"
    ),
    "gpu_hours_held": (
        "sum over the ledger of devices x share x wall time from placement to release, idle included, and of the seats "
        "that were left vacant (gpu_hours_vacated)"
    ),
    "gpu_hours_busy": "the part of gpu_hours_held in which the stage was computing, by the stage's own timer",
    "gpu_hours_fused": (
        "the part of gpu_hours_held in which trials trained with others as one program, seats left vacant included"
    ),
    "gpu_hours_vacated": (
        "the part of gpu_hours_fused in seats that members had left and nobody took while their program went on, "
        "charged in equal parts to those that were still in it"
    ),
    "experiments_decided": "trials that gave their answer: completed, or stopped early on evidence",
    "experiments_completed": "trials trained to their full budget",
    "stages_reused": "stage outputs that a trial took over instead of computing them, counted per trial",
}
"""One line per metric of `throughput`, for reports; the keys are the metric names in the order they are shown."""

_SECONDS_PER_HOUR = 3600.0
# Less than a nanosecond is nothing that was held; rates over it would not be finite.
_NOTHING_HOURS = 1e-9 / _SECONDS_PER_HOUR


def throughput(
    trials: Sequence[Trial], allocations: Sequence[Allocation], now: float, beside: Sequence[Allocation] = ()
) -> dict[str, float]:
    """What the held devices delivered; `EXPLANATIONS` says how each value is computed.

    `allocations` are the ledger lines of the same trials; an open line is counted up to `now` [seconds since the
    epoch]. `beside` are lines of others on the same devices (see `accounting.about`), which are charged to others.
    Rates are per GPU-hour [1/h] and 0.0 when nothing was held, hours are device-hours [h], the rest are counts.
    `completed_equivalent_*` counts every trial, decided or not, by `Trial.budget_fraction`: a failed trial's results up
    to its failure are results too.
    """
    found = seats([*allocations, *beside], now)
    vacated_s = sum(found[line.bundle_id].vacated_s for line in allocations if line.bundle_id in found)
    vacated_hours = vacated_s / _SECONDS_PER_HOUR
    held_hours = sum(line.device_seconds(now) for line in allocations) / _SECONDS_PER_HOUR + vacated_hours
    busy_hours = sum(line.busy_device_seconds() for line in allocations) / _SECONDS_PER_HOUR
    fused = (line.device_seconds(now) for line in allocations if line.stack_id)
    fused_hours = sum(fused) / _SECONDS_PER_HOUR + vacated_hours
    decided = sum(trial.state.decided for trial in trials)
    equivalent = sum(trial.budget_fraction for trial in trials)
    return {
        "experiments_per_gpu_hour": _rate(decided, held_hours),
        "completed_equivalent_per_gpu_hour": _rate(equivalent, held_hours),
        "completed_equivalent_reused": sum(trial.reused_fraction for trial in trials),
        "gpu_hours_held": held_hours,
        "gpu_hours_busy": busy_hours,
        "gpu_hours_fused": fused_hours,
        "gpu_hours_vacated": vacated_hours,
        "experiments_decided": float(decided),
        "experiments_completed": float(sum(trial.state is TrialState.COMPLETED for trial in trials)),
        "stages_reused": float(sum(len(trial.reused_stages) for trial in trials)),
    }


def _rate(count: float, hours: float) -> float:
    return count / hours if hours > _NOTHING_HOURS else 0.0
