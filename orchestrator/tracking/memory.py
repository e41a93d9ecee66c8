"""A tracker that keeps what it is told: for a study whose numbers need no reader, and for tests of the loop.

Nothing is written anywhere; the store remains the durable truth, and `orchestrator report` reads from there.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.schema import Study, Trial
from orchestrator.tracking import runs
from orchestrator.tracking.runs import RunStatus

logger = logging.getLogger(__name__)


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

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of every metric."""
        return {name: points[-1].value for name, points in self.series.items()}


class MemoryTracker:
    """Records into `runs`, keyed by study id and trial id. Never blocks, holds nothing open."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.experiments: dict[str, str] = {}
        self._studies: dict[str, Study] = {}

    def check(self) -> None:
        """Memory is always there."""

    def study_started(self, study: Study) -> None:
        self._studies[study.study_id] = study
        self.experiments[study.study_id] = runs.experiment_name(study)
        known = self.runs.get(study.study_id)
        if known is not None:
            known.status, known.ended_at = RunStatus.RUNNING, None
            return
        self.runs[study.study_id] = Run(
            name=study.name,
            tags=runs.study_tags(study),
            params=runs.flatten(study.config),
            status=RunStatus.RUNNING,
            artifacts={runs.CONFIG_FILE: runs.config_yaml(study.config)},
        )

    def trial_changed(self, trial: Trial) -> None:
        run = self.runs.get(trial.trial_id)
        if run is None:
            run = self.runs[trial.trial_id] = self._open(trial)
        run.tags.update(runs.state_tags(trial))
        run.status = runs.STATUS_OF[trial.state]
        if not trial.state.terminal:
            return
        run.ended_at = trial.ended_at
        step = max((points[-1].step for points in run.series.values()), default=0)
        for name, value in runs.final_metrics(trial).items():
            run.series.setdefault(name, []).append(Point(step, value, trial.ended_at or 0.0))
        if trial.error:
            run.artifacts[runs.ERROR_FILE] = trial.error

    def metrics(self, trial_id: str, step: int, metrics: Mapping[str, float], at: float) -> None:
        run = self.runs.get(trial_id)
        if run is None:
            logger.warning("tracking: a point of trial %s, which has no run, is dropped", trial_id)
            return
        for name, value in metrics.items():
            run.series.setdefault(name, []).append(Point(step, value, at))

    def study_finished(self, study: Study, metrics: Mapping[str, float], artifacts: Sequence[Path]) -> None:
        run = self.runs[study.study_id]
        at = study.ended_at or 0.0
        for name, value in runs.readable(metrics).items():
            run.series.setdefault(name, []).append(Point(0, value, at))
        run.artifacts.update({path.name: path.read_text(encoding="utf-8") for path in artifacts})
        run.status, run.ended_at = RunStatus.FINISHED, study.ended_at

    def where_to_look(self, study_id: str) -> str:
        """Nowhere: the runs end with the process."""
        del study_id
        return ""

    def close(self, timeout_s: float) -> bool:
        """There is nothing to write out."""
        return True

    def _open(self, trial: Trial) -> Run:
        study = self._studies[trial.study_id]
        return Run(
            name=runs.run_name(trial),
            tags=runs.trial_tags(study, trial),
            params=runs.flatten(trial.variant.config),
            status=runs.STATUS_OF[trial.state],
            parent=study.study_id,
            artifacts={runs.CONFIG_FILE: runs.config_yaml(trial.variant.config)},
        )
