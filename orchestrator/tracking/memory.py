"""A tracker that keeps what it is told: for a study whose numbers need no reader, and for tests.

Nothing is written anywhere; the store remains the durable truth, and `orchestrator report` reads from there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.schema import NO_CHARGE, Charge, JournalEntry, Study, Trial
from orchestrator.tracking import runs
from orchestrator.tracking.runs import NoRun, RunStatus


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a series; `at` in seconds since the epoch."""

    step: int
    value: float
    at: float


@dataclass(slots=True)
class Run:
    """A parent or child run as a reader would find it. `series` holds every point of a metric in order of arrival."""

    name: str
    tags: dict[str, str]
    params: dict[str, str]
    status: RunStatus
    parent: str | None = None
    series: dict[str, list[Point]] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    ended_at: float | None = None
    _known: set[tuple[str, int, str, float]] = field(default_factory=set)

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of every metric."""
        return {name: points[-1].value for name, points in self.series.items()}

    def add(self, metrics: Mapping[str, float], step: int, at: float) -> None:
        """One point of each metric; a point that is there already is not added again."""
        for name, value in metrics.items():
            # By its text: a NaN doesn't equal itself.
            identity = (name, step, repr(value), at)
            if identity not in self._known:
                self._known.add(identity)
                self.series.setdefault(name, []).append(Point(step, value, at))


class MemoryTracker:
    """Records into `runs`, keyed by study id and trial id; `experiments` holds their names by study id."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.experiments: dict[str, str] = {}

    def check(self) -> None:
        """Memory is always there."""

    def study_started(self, study: Study) -> None:
        self.experiments[study.study_id] = runs.experiment_name(study)
        run = self.runs.get(study.study_id)
        if run is None:
            self.runs[study.study_id] = Run(
                name=study.name,
                tags=runs.study_tags(study),
                params=runs.flatten(study.config),
                status=RunStatus.RUNNING,
                artifacts={runs.CONFIG_FILE: runs.config_yaml(study.config)},
            )
            return
        run.tags.update(runs.study_tags(study))
        if study.ended_at is None:
            run.status, run.ended_at = RunStatus.RUNNING, None

    def trial_changed(self, study: Study, trial: Trial, charge: Charge = NO_CHARGE) -> None:
        run = self.runs.get(trial.trial_id)
        if run is None:
            run = self.runs[trial.trial_id] = self._open(study, trial)
        run.name = runs.run_name(trial)
        run.tags = {**runs.trial_tags(study, trial), **runs.state_tags(trial, charge)}
        run.params = runs.flatten(trial.variant.config)
        run.artifacts[runs.CONFIG_FILE] = runs.config_yaml(trial.variant.config)
        run.status = runs.STATUS_OF[trial.state]
        run.ended_at = trial.ended_at if trial.state.terminal else None
        if trial.state.terminal:
            run.add(runs.final_metrics(trial, charge), runs.final_step(trial), trial.ended_at or trial.submitted_at)
        if trial.error:
            run.artifacts[runs.ERROR_FILE] = runs.error_text(trial)

    def points(self, study: Study, trial_id: str, points: Sequence[JournalEntry]) -> None:
        run = self.runs.get(trial_id)
        if run is None:
            raise NoRun(f"trial {trial_id} of study {study.study_id} has no run")
        for point in points:
            run.add(point.payload["metrics"], point.payload["step"], point.at)

    def study_finished(self, study: Study, metrics: Mapping[str, float], artifacts: Sequence[Path]) -> None:
        if study.study_id not in self.runs:
            self.study_started(study)
        run = self.runs[study.study_id]
        run.add(runs.readable(metrics), 0, study.ended_at or study.submitted_at)
        run.artifacts.update({path.name: path.read_text(encoding="utf-8") for path in artifacts if path.exists()})
        states = [child.tags["state"] for child in self.runs.values() if child.parent == study.study_id]
        run.status, run.ended_at = runs.study_status(states), study.ended_at

    def refused(self, error: Exception) -> bool:
        return isinstance(error, NoRun)

    def answers(self) -> bool:
        return True

    def where_to_look(self, study_id: str) -> str:
        """Nowhere: the runs end with the process."""
        del study_id
        return ""

    def _open(self, study: Study, trial: Trial) -> Run:
        if study.study_id not in self.runs:
            self.study_started(study)
        return Run(name="", tags={}, params={}, status=runs.STATUS_OF[trial.state], parent=study.study_id)
