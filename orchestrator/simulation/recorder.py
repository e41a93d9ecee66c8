"""A store that keeps sums in place of records: what is reported of a simulated run, in memory that doesn't grow with
the number of trials but for two numbers each.

Words: a trial's *completion time* is from its submission to its end; its *wait* from its submission to its first start;
its *finish-time ratio* its completion time in parts of what it would have taken alone. The *occupancy* is the share of
all devices that somebody holds.
"""

from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.events import Record, RecordAllocation, RecordDevices, RecordStudy, RecordTrial
from orchestrator.schema import Allocation, Command, Outcome, Prediction, Study, Trial, TrialState
from orchestrator.simulation.submissions import alone_s, is_gang
from orchestrator.snapshot import SHARE_UNITS, share_units

# A series keeps between half as many points as this and as many.
_POINTS = 1024


@dataclass(slots=True)
class Ratios:
    """Finish-time ratios: how many, their sum, and the largest."""

    count: int = 0
    total: float = 0.0
    largest: float = 0.0

    def add(self, ratio: float) -> None:
        """One more."""
        self.count += 1
        self.total += ratio
        self.largest = max(self.largest, ratio)

    def add_all(self, others: "Ratios") -> None:
        """Those that somebody else counted."""
        self.count += others.count
        self.total += others.total
        self.largest = max(self.largest, others.largest)


@dataclass(slots=True)
class Series:
    """How the share of devices that is held, and the number of trials that wait, went over time. Bounded: points are
    sums since the beginning, so that any two give the mean between them, and every second one is dropped when there
    are too many."""

    points: list[tuple[float, float, float, float]] = field(default_factory=list)
    held: float = 0.0
    there: float = 0.0
    waiting: float = 0.0
    _every_s: float = 0.0

    def add(self, since: float, until: float, held: float, there: float, waiting: int) -> None:
        """From `since` to `until` so many devices were held, so many were there, and so many trials waited."""
        seconds = until - since
        if not self.points:
            self.points.append((since, 0.0, 0.0, 0.0))
        self.held += held * seconds
        self.there += there * seconds
        self.waiting += waiting * seconds
        if until - self.points[-1][0] >= self._every_s:
            self.points.append((until, self.held, self.there, self.waiting))
            if len(self.points) > _POINTS:
                self.points = self.points[::2]
                self._every_s = max(2 * self._every_s, (until - self.points[0][0]) / _POINTS)


@dataclass(slots=True)
class _Open:
    """A trial that is not over."""

    submitted_at: float
    alone_s: float
    started: bool = False
    preemptions: int = 0


class Recorder:
    """`ports.LeaderStore` for a simulated run: takes the loop's records, adds them up, and keeps none of them.

    waiting: since when trials have been waiting [s], by id, oldest first. held_units: what is held now, in devices x
    SHARE_UNITS. starts: how many bundles were started. by_state: how many trials ended how. completion_s, wait_s,
    gang_wait_s: one number for each trial that completed, that started, or that started and is a gang. ratios:
    finish-time ratios by tenant. queued, opened: when trials began to wait, with their ids, and when bundles were
    started [s], for whoever takes them from there. began_at, ended_at: when the first trial was submitted and when the
    last trial, or bundle, ended [s].
    """

    def __init__(self) -> None:
        self.waiting: dict[str, float] = {}
        self.held_units = 0
        self.starts = 0
        self.preemptions = 0
        self.by_state = dict.fromkeys(TrialState, 0)
        self.completion_s = array("d")
        self.wait_s = array("d")
        self.gang_wait_s = array("d")
        self.queued: deque[tuple[float, str]] = deque()
        self.opened: deque[float] = deque()
        self.ratios: dict[str, Ratios] = {}
        self.held_device_s = 0.0
        self.busy_device_s = 0.0
        self.began_at: float | None = None
        self.ended_at = 0.0
        self.series = Series()
        self._devices = 0
        self._at = 0.0
        self._open: dict[str, _Open] = {}
        self._tenants: dict[str, str] = {}

    def apply(self, records: Sequence[Record], *, term: int = 0, batch: int = 0) -> None:
        """See `ports.Store`; a simulation has one leader, so term and batch say nothing."""
        for record in records:
            match record:
                case RecordTrial():
                    self._trial(record)
                case RecordAllocation():
                    self._line(record.allocation)
                case RecordStudy():
                    self._study(record.study)
                case RecordDevices():
                    self._devices = len(record.devices)
                case _:
                    pass

    def pending_commands(self) -> list[Command]:
        """Nobody asks for anything."""
        return []

    def completed_stages(self, keys: Sequence[str]) -> dict[str, Outcome]:
        return {}

    def study(self, study_id: str) -> Study:
        raise KeyError(study_id)

    def studies(self, *, open_only: bool = False) -> list[Study]:
        return []

    def trials(self, study_id: str) -> list[Trial]:
        return []

    def trial(self, trial_id: str) -> Trial:
        raise KeyError(trial_id)

    def allocations(self, study_id: str | None = None) -> list[Allocation]:
        return []

    def predictions(self, study_id: str) -> list[Prediction]:
        return []

    @property
    def held_now(self) -> float:
        """The share of all devices that is held."""
        return self.held_units / SHARE_UNITS / self._devices if self._devices else 0.0

    @property
    def unfinished(self) -> int:
        """How many trials are not over."""
        return len(self._open)

    def pass_time(self, until: float) -> None:
        """Everything stays as it is up to then [s]."""
        if self.began_at is not None and until > self._at:
            held = self.held_units / SHARE_UNITS
            self.series.add(max(self._at, self.began_at), until, held, self._devices, len(self.waiting))
        self._at = max(self._at, until)

    def _study(self, study: Study) -> None:
        if study.ended_at is None:
            self._tenants[study.study_id] = study.tenant
        else:
            self._tenants.pop(study.study_id, None)

    def _trial(self, record: RecordTrial) -> None:
        trial = record.trial
        self.pass_time(record.at)
        known = self._open.get(trial.trial_id)
        if known is None:
            if self.began_at is None:
                self.began_at = self._at = trial.submitted_at
            known = self._open[trial.trial_id] = _Open(trial.submitted_at, alone_s(trial))
        self.preemptions += trial.preemptions - known.preemptions
        known.preemptions = trial.preemptions
        if trial.state is TrialState.QUEUED:
            if trial.trial_id not in self.waiting:
                self.waiting[trial.trial_id] = record.at
                self.queued.append((record.at, trial.trial_id))
            return
        self.waiting.pop(trial.trial_id, None)
        if trial.started_at is not None and not known.started:
            known.started = True
            self.wait_s.append(trial.started_at - known.submitted_at)
            if is_gang(trial):
                self.gang_wait_s.append(trial.started_at - known.submitted_at)
        if trial.state.terminal:
            self._over(trial, known)

    def _over(self, trial: Trial, known: _Open) -> None:
        del self._open[trial.trial_id]
        self.by_state[trial.state] += 1
        self.ended_at = max(self.ended_at, trial.ended_at or 0.0)
        if trial.state is not TrialState.COMPLETED or trial.ended_at is None:
            return
        completion_s = trial.ended_at - known.submitted_at
        self.completion_s.append(completion_s)
        if known.alone_s > 0:
            tenant = self._tenants.get(trial.study_id, "default")
            self.ratios.setdefault(tenant, Ratios()).add(completion_s / known.alone_s)

    def _line(self, line: Allocation) -> None:
        units = len(line.device_ids) * share_units(line.share)
        if line.closed_at is None:
            self.pass_time(line.opened_at)
            self.held_units += units
            self.starts += 1
            self.opened.append(line.opened_at)
            return
        self.pass_time(line.closed_at)
        self.held_units -= units
        self.ended_at = max(self.ended_at, line.closed_at)
        self.held_device_s += line.device_seconds(line.closed_at)
        self.busy_device_s += line.busy_device_seconds()
