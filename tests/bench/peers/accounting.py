"""What a run of a system cost and what it gave, by one rule for all systems. Pure.

A *hold* is a share of one device in somebody's hands, from when a process, an actor or a bundle takes it to when it
lets go: what is imported while holding, and what is idle inside, is paid for. An experiment is *decided* when it was
trained to its full budget or stopped by a rule. Its *fraction* is the part of the full budget that there are results
for, every stage counted by its steps, as `Trial.budget_fraction` does; `reused` is the part of it that another one
trained.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.accounting import Seat, seats
from orchestrator.schema import Allocation


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """`share` of one device (above 1: of several) from `began_at` to `ended_at` [s since the epoch]."""

    share: float
    began_at: float
    ended_at: float

    @property
    def device_s(self) -> float:
        return self.share * (self.ended_at - self.began_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """What became of variant `number`. dev_accuracy: the last one measured; -1.0 without any."""

    number: int
    decided: bool
    completed: bool
    fraction: float
    reused: float = 0.0
    dev_accuracy: float = -1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One piece of training inside a process that lives longer: variant `number` in process `pid`, which was created
    at `born_at` [s since the epoch]."""

    pid: int
    born_at: float
    number: int
    began_at: float
    ended_at: float


def holds_of_processes(work: Iterable[Work], share: float, queued_at: float) -> list[Hold]:
    """One per process: from its creation, but not before there was anything to do, to the end of its last piece."""
    by_process: dict[tuple[int, float], list[Work]] = defaultdict(list)
    for piece in work:
        by_process[piece.pid, piece.born_at].append(piece)
    return [
        Hold(share=share, began_at=max(born_at, queued_at), ended_at=max(piece.ended_at for piece in pieces))
        for (_, born_at), pieces in by_process.items()
    ]


def holds_of_ledger(lines: Iterable[Allocation]) -> list[Hold]:
    """One per line, as the product's own headline counts it: a member of a stack holds its seat, and its part of those
    that others left while nobody took them (`orchestrator.accounting`), as a mean share over its time. The ledger must
    be that of all that ran on the devices.

    Raises ValueError for a line that is still open.
    """
    closed = [(line, _end(line)) for line in lines]
    found = seats((line for line, _ in closed), max((end for _, end in closed), default=0.0))
    return [
        Hold(
            share=line.share * len(line.device_ids) + _mean_vacated(found.get(line.bundle_id), end - line.opened_at),
            began_at=line.opened_at,
            ended_at=end,
        )
        for line, end in closed
    ]


def _end(line: Allocation) -> float:
    if line.closed_at is None:
        raise ValueError(f"the ledger's line of {line.bundle_id} is open")
    return line.closed_at


def _mean_vacated(seat: Seat | None, seconds: float) -> float:
    return 0.0 if seat is None else seat.vacated_s / seconds


def device_seconds(holds: Iterable[Hold]) -> float:
    """Share x time over all holds [device-seconds]."""
    return sum(hold.device_s for hold in holds)


def cluster_device_seconds(holds: Sequence[Hold], devices: int) -> float:
    """All devices from the first hold to the last release: what idle devices at the end cost too [device-seconds]."""
    return devices * (max(hold.ended_at for hold in holds) - min(hold.began_at for hold in holds))


def best(experiments: Iterable[Experiment]) -> Experiment:
    """The decided one with the best dev accuracy; of equals the first. Raises ValueError if none was decided."""
    decided = [experiment for experiment in experiments if experiment.decided]
    if not decided:
        raise ValueError("no experiment was decided")
    return max(decided, key=lambda e: (e.dev_accuracy, -e.number))


def summary(experiments: Sequence[Experiment], holds: Sequence[Hold], devices: int, wall_s: float) -> dict[str, Any]:
    """The numbers of one run, under the names of the record. Rates are per device-hour [1/h]."""
    device_s = device_seconds(holds)
    decided = sum(experiment.decided for experiment in experiments)
    equivalent = sum(experiment.fraction for experiment in experiments)
    return {
        "wall_s": wall_s,
        "device_s": device_s,
        "cluster_device_s": cluster_device_seconds(holds, devices),
        "wall_device_s": devices * wall_s,
        "decided": decided,
        "completed": sum(experiment.completed for experiment in experiments),
        "completed_equivalent": equivalent,
        "completed_equivalent_reused": sum(experiment.reused for experiment in experiments),
        "decided_per_device_hour": 3600.0 * decided / device_s,
        "completed_equivalent_per_device_hour": 3600.0 * equivalent / device_s,
    }


def as_data(experiments: Sequence[Experiment], holds: Sequence[Hold]) -> dict[str, Any]:
    """What a system's process hands to the harness, as JSON can hold it."""
    return {"experiments": [asdict(e) for e in experiments], "holds": [asdict(h) for h in holds]}


def from_data(data: Mapping[str, Any]) -> tuple[list[Experiment], list[Hold]]:
    """The inverse of `as_data`."""
    return [Experiment(**e) for e in data["experiments"]], [Hold(**h) for h in data["holds"]]
