"""MLflow: one experiment per study, a parent run for the study, a child run per trial.

Works on an embedded database (`sqlite:///...`, artifacts in a folder) and on an MLflow server
(`http://...`, artifacts wherever the server keeps them). Every call can be repeated, by this process or by a later one:
runs are found again by their tags, and a point that is there already is not there twice, since MLflow ignores a metric
of the same key, step, time and value.
"""

import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.colors import ALGORITHM_COLORS
from orchestrator.ports import TrackingUnavailable
from orchestrator.redaction import redacted_text
from orchestrator.schema import NO_CHARGE, Charge, JournalEntry, Study, Trial
from orchestrator.tracking import runs
from orchestrator.tracking.mlflow_client import (
    MAX_METRICS_PER_BATCH,
    MAX_PARAMS_PER_BATCH,
    MAX_TAG_CHARS,
    chunks,
    metric_values,
    milliseconds,
    open_client,
    param_of,
    params_of,
    run_tags,
)
from orchestrator.tracking.reachability import check_uri, find_experiment
from orchestrator.tracking.runs import NoRun, RunStatus
from orchestrator.tracking.views import experiment_tags, page_path

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

logger = logging.getLogger(__name__)

CHECK_TIMEOUT_S: Final = 3.0

CHANGED_PARAMS_TAG: Final = "changed params"
"""MLflow's params can't change; what an extension changed stands in this tag, and in `config.yaml`."""

_SOURCE_TAGS: Final = {"mlflow.source.name": "orchestrator", "mlflow.source.type": "JOB"}
_PROBE_TAG: Final = "orchestrator.probed"
_PROBE_BYTES: Final = 65536

# Answers of class 4xx that are no verdict on the record: access can be given again, and "later" is not "never".
_LATER: Final = frozenset({401, 403, 408, 409, 429})


@dataclass(slots=True)
class _KnownRun:
    """What this process knows of a run, to spare writes of what is there. `described`: the variant in its params, ""
    if there is none yet, None if unknown."""

    run_id: str
    name: str
    tags: dict[str, str]
    status: str
    described: str | None = None


@dataclass(slots=True)
class _KnownStudy:
    """A study's experiment and its runs by trial id, the parent under the study's own id.

    `unsure`: a run was being made and no answer came, so it may exist. `shared`: other processes, or lost answers, may
    have made runs that this one doesn't know.
    """

    experiment_id: str
    runs: dict[str, _KnownRun] = field(default_factory=dict)
    unsure: bool = False
    shared: bool = False


class MlflowTracker:
    """A `ports.Tracker` that writes to MLflow at `uri`.

    `artifact_root` is the folder for artifacts beside an embedded database; a server keeps them itself.
    """

    def __init__(self, uri: str, artifact_root: Path) -> None:
        self._uri = uri
        self._artifact_root = artifact_root
        self._opened: MlflowClient | None = None
        self._studies: dict[str, _KnownStudy] = {}

    def check(self) -> None:
        check_uri(self._uri, CHECK_TIMEOUT_S)

    def study_started(self, study: Study) -> None:
        run = self._parent(study)
        self._set_tags(run, {**runs.study_tags(study), **_SOURCE_TAGS})
        if study.ended_at is None:
            self._set_status(run, RunStatus.RUNNING)

    def trial_changed(self, study: Study, trial: Trial, charge: Charge = NO_CHARGE) -> None:
        run = self._study(study).runs.get(trial.trial_id) or self._open_trial(study, trial)
        self._describe(run, trial.variant.key, trial.variant.config)
        self._set_name(run, runs.run_name(trial))
        tags = {**runs.trial_tags(study, trial), **runs.state_tags(trial, charge)}
        status = runs.STATUS_OF[trial.state]
        if not trial.state.terminal:
            # Each write that can be spared is 10 ms of CPU.
            self._set_tags(run, tags)
            self._set_status(run, status)
            return
        ended_ms = milliseconds(trial.ended_at if trial.ended_at is not None else trial.submitted_at)
        values = metric_values(runs.final_metrics(trial, charge), runs.final_step(trial), ended_ms)
        self._set_tags(run, tags, values)
        if trial.error:
            self.client.log_text(run.run_id, runs.error_text(trial), runs.ERROR_FILE)
        self.client.set_terminated(run.run_id, status=status, end_time=ended_ms)
        run.status = status

    def points(self, study: Study, trial_id: str, points: Sequence[JournalEntry]) -> None:
        run = self._study(study).runs.get(trial_id)
        if run is None:
            raise NoRun(f"trial {trial_id} of study {study.study_id} has no run")
        values = (
            value
            for point in points
            for value in metric_values(point.payload["metrics"], point.payload["step"], milliseconds(point.at))
        )
        for chunk in chunks(values, MAX_METRICS_PER_BATCH):
            self.client.log_batch(run.run_id, metrics=chunk)

    def study_finished(self, study: Study, metrics: Mapping[str, float], artifacts: Sequence[Path]) -> None:
        known, run = self._study(study), self._parent(study)
        if known.shared:
            self._adopt(known)
        ended_ms = milliseconds(study.ended_at if study.ended_at is not None else study.submitted_at)
        self.client.log_batch(run.run_id, metrics=metric_values(runs.readable(metrics), 0, ended_ms))
        for path in artifacts:
            if path.exists():
                self.client.log_artifact(run.run_id, str(path))
            else:
                logger.warning("tracking: the artifact %s is gone and is left out", path)
        self.client.set_terminated(run.run_id, status=self._study_status(known), end_time=ended_ms)
        # Were it kept, a service would remember every run that it ever made.
        del self._studies[study.study_id]

    def refused(self, error: Exception) -> bool:
        # Asked by attribute, not by class: this must give an answer even if it was the import that failed.
        status = getattr(error, "get_http_status_code", None)
        if status is None:
            return isinstance(error, NoRun)
        return 400 <= status() < 500 and status() not in _LATER

    def answers(self) -> bool:
        """Whether it takes a small write: a database that is locked, or a disk that is full, is as good as away."""
        try:
            check_uri(self._uri, CHECK_TIMEOUT_S)
            if self._uri.startswith("sqlite:"):
                self._artifact_root.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self._artifact_root) as probe:
                    probe.write(bytes(_PROBE_BYTES))
            for known in islice(reversed(self._studies.values()), 1):
                self.client.set_experiment_tag(known.experiment_id, _PROBE_TAG, str(time.time()))
        except (TrackingUnavailable, OSError):
            return False
        # Whatever else MLflow raises (its own errors, SQLAlchemy's): a refusal is an answer, the rest is none.
        except Exception as error:
            return self.refused(error)
        return True

    def where_to_look(self, study_id: str) -> str:
        """The address on a server, or for a database the command that serves it and the address it then has."""
        experiment_id = find_experiment(self._uri, f"/{study_id}", CHECK_TIMEOUT_S)
        if not experiment_id:
            return ""
        page, uri = page_path(experiment_id), redacted_text(self._uri)
        if uri.startswith("http"):
            return f"{uri.rstrip('/')}{page}"
        return f"{sys.executable} -m mlflow ui --backend-store-uri {uri}   then http://127.0.0.1:5000{page}"

    def attach(self, study: Study, trial_id: str, files: Sequence[Path], folder: str) -> bool:
        """Log files as artifacts of a trial's run, in a folder there. False if there is no such run, or no MLflow that
        takes them."""
        experiment_id = find_experiment(self._uri, f"/{study.study_id}", CHECK_TIMEOUT_S)
        if not experiment_id:
            return False
        try:
            found = self.client.search_runs([experiment_id], f"tags.trial_id = '{trial_id}'")
            for path in files if found else ():
                self.client.log_artifact(found[0].info.run_id, str(path), folder)
        # Whatever MLflow raises (its own errors, SQLAlchemy's, those of a store of artifacts): the files are here too.
        except Exception as error:
            logger.warning("tracking: %s is not an artifact of trial %s: %s", folder, trial_id, error)
            return False
        return bool(found)

    @property
    def client(self) -> "MlflowClient":
        """MLflow's own; the first time the database is made."""
        if self._opened is None:
            self._opened = open_client(self._uri, self._artifact_root)
        return self._opened

    def _study(self, study: Study) -> _KnownStudy:
        """The study's experiment, found or made, with the runs in it."""
        known = self._studies.get(study.study_id)
        if known is not None:
            return known
        name = runs.experiment_name(study)
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            known = _KnownStudy(experiment_id=str(found.experiment_id), shared=True)
            self._adopt(known)
        else:
            location = None
            if self._uri.startswith("sqlite:"):
                location = (self._artifact_root / study.study_id).absolute().as_uri()
            tags = experiment_tags(study)
            known = _KnownStudy(self.client.create_experiment(name, artifact_location=location, tags=tags))
        self._studies[study.study_id] = known
        return known

    def _parent(self, study: Study) -> _KnownRun:
        """The study's own run, found or made."""
        known = self._study(study)
        run = known.runs.get(study.study_id)
        if run is None:
            tags = {**runs.study_tags(study), **_SOURCE_TAGS}
            run = self._create_run(known, study.study_id, study.name, tags, study.submitted_at)
        self._describe(run, study.study_id, study.config)
        return run

    def _open_trial(self, study: Study, trial: Trial) -> _KnownRun:
        parent = {"mlflow.parentRunId": self._parent(study).run_id}
        color = ALGORITHM_COLORS.get(trial.variant.algorithm)
        look = {} if color is None else {"mlflow.runColor": color}
        tags = {**runs.trial_tags(study, trial), **runs.state_tags(trial), **_SOURCE_TAGS, **parent, **look}
        known = self._study(study)
        return self._create_run(known, trial.trial_id, runs.run_name(trial), tags, trial.submitted_at)

    def _create_run(self, known: _KnownStudy, owner: str, name: str, tags: Mapping[str, str], at: float) -> _KnownRun:
        """A new run of `owner` (a study's or a trial's id), or the one that an attempt whose answer got lost made."""
        if known.unsure:
            self._adopt(known)
            if owner in known.runs:
                return known.runs[owner]
        known.unsure = True
        try:
            made = self.client.create_run(
                known.experiment_id,
                start_time=milliseconds(at),
                tags={key: value[:MAX_TAG_CHARS] for key, value in tags.items()},
                run_name=name,
            )
        except Exception:
            known.shared = True
            raise
        known.unsure = False
        # MLflow's first status of a run is RUNNING.
        run = known.runs[owner] = _KnownRun(made.info.run_id, name, dict(tags), RunStatus.RUNNING, described="")
        return run

    def _adopt(self, known: _KnownStudy) -> None:
        """Find the runs of this experiment that this process doesn't know. Of two of one owner, the fuller one stays.

        Two come about if a request that made a run was carried out after its sender had given it up, or had died.
        """
        found: dict[str, list[Run]] = {}
        for run in self._runs(known):
            if owner := run.data.tags.get("trial_id") or run.data.tags.get("study_id"):
                found.setdefault(owner, []).append(run)
        for owner, candidates in found.items():
            mine = known.runs.get(owner)
            kept = max(candidates, key=lambda run: (mine is not None and run.info.run_id == mine.run_id, _content(run)))
            for run in candidates:
                if run is not kept:
                    self.client.delete_run(run.info.run_id)
            if mine is None or mine.run_id != kept.info.run_id:
                info = kept.info
                known.runs[owner] = _KnownRun(info.run_id, info.run_name, dict(kept.data.tags), info.status)
        known.unsure = False

    def _runs(self, known: _KnownStudy) -> Iterator["Run"]:
        token = None
        while True:
            page = self.client.search_runs([known.experiment_id], page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _describe(self, run: _KnownRun, described: str, config: Mapping[str, object]) -> None:
        """Params and the config file, once per run and variant; writing the same again does no harm."""
        if run.described == described:
            return
        params = params_of(config)
        # MLflow refuses another value for a param that is there, with its whole batch.
        there = {} if run.described == "" else self.client.get_run(run.run_id).data.params
        changed = [f"{name}={value}" for name, value in params.items() if there.get(name, value) != value]
        new = (param_of(name, value) for name, value in params.items() if name not in there)
        for chunk in chunks(new, MAX_PARAMS_PER_BATCH):
            self.client.log_batch(run.run_id, params=chunk)
        if changed:
            self.client.set_tag(run.run_id, CHANGED_PARAMS_TAG, " ".join(changed)[:MAX_TAG_CHARS])
        self.client.log_text(run.run_id, runs.config_yaml(config), runs.CONFIG_FILE)
        run.described = described

    def _set_tags(self, run: _KnownRun, tags: Mapping[str, str], metrics: Sequence["Metric"] = ()) -> None:
        """Bring the run's tags to `tags`, in one write with `metrics`."""
        changed = {name: value for name, value in tags.items() if run.tags.get(name) != value}
        if changed or metrics:
            self.client.log_batch(run.run_id, metrics=metrics, tags=run_tags(changed))
        run.tags.update(changed)
        if runs.ERROR_TAG in run.tags and runs.ERROR_TAG not in tags:
            self.client.delete_tag(run.run_id, runs.ERROR_TAG)
            del run.tags[runs.ERROR_TAG]

    def _set_name(self, run: _KnownRun, name: str) -> None:
        if run.name != name:
            self.client.update_run(run.run_id, name=name)
            run.name = name

    def _set_status(self, run: _KnownRun, status: RunStatus) -> None:
        """A run that had ended goes on; MLflow has no way to take its end time back."""
        if run.status != status:
            self.client.update_run(run.run_id, status=status)
            run.status = status

    def _study_status(self, known: _KnownStudy) -> RunStatus:
        states = {run.tags["state"] for run in known.runs.values() if "state" in run.tags}
        return runs.study_status(states)


def _content(run: "Run") -> tuple[int, str]:
    """How much is in a run; its id makes the order total."""
    return len(run.data.params) + len(run.data.metrics), run.info.run_id
