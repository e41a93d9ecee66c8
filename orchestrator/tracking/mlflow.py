"""MLflow: one experiment per study, a parent run for the study, a child run per trial.

The only file that imports mlflow, and it does so in the writer's thread: the import (1.9 s) and the creation of a
database (2.6 s) pass while devices come up. Works on an embedded database (`sqlite:///...`, artifacts in a folder) and
on an MLflow server (`http://...`, artifacts wherever the server keeps them). A study started again, by a loop that
takes over from a killed one, continues the runs that it finds.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from orchestrator.ports import TrackingUnavailable
from orchestrator.schema import Study, Trial
from orchestrator.tracking import runs
from orchestrator.tracking.reachability import check_uri
from orchestrator.tracking.writer import BufferedWriter, Point, StudyFinished, StudyStarted, TrialChanged

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

logger = logging.getLogger(__name__)

T = TypeVar("T")

CHECK_TIMEOUT_S: Final = 3.0

# MLflow's own limits (mlflow/utils/validation.py); a longer tag or param would be refused with its whole batch. Servers
# of version 2 take 5000 characters of a tag.
MAX_PARAM_CHARS: Final = 6000
MAX_TAG_CHARS: Final = 5000
MAX_NAME_CHARS: Final = 250
MAX_PARAMS_PER_BATCH: Final = 100
MAX_METRICS_PER_BATCH: Final = 1000

# More, or longer ones, and a saved view could outgrow the tag that holds it.
MAX_SWEPT_COLUMNS: Final = 6
MAX_SWEPT_NAME_CHARS: Final = 40

COMPARISON_VIEW: Final = "comparison"
"""Key of the saved view of a study's page that lists its trials, the best first, in the columns that matter."""

ALGORITHMS_VIEW: Final = "algorithms"
"""Key of the saved view that groups the trials by algorithm: means in the table, a band per algorithm in the charts."""

COLORS: Final[Mapping[str, str]] = {"sft": "#1f77b4", "grpo": "#d95f02"}
"""Of the runs of an algorithm, in charts and lists; others get a colour of MLflow's own per run."""

_NAME_FORBIDS: Final = re.compile(r"[^/\w.\- :]")

_TRIAL_COLUMNS: Final = {"tags.`algorithm`": 80, "params.`optimizer.lr`": 85, "params.`seed`": 55}
_RESULT_COLUMNS: Final = {
    "metrics.`accuracy`": 90,
    "metrics.`dev_accuracy`": 100,
    "metrics.`gpu_seconds`": 95,
    "metrics.`tokens_per_answer`": 130,
    "metrics.`seconds_per_answer`": 135,
    "metrics.`experiments_per_gpu_hour`": 140,
    "tags.`state`": 90,
    "metrics.`start_accuracy`": 110,
}
_SWEPT_COLUMN_WIDTH: Final = 120
_RUN_NAME_WIDTH: Final = 205

_SOURCE_TAGS: Final = {"mlflow.source.name": "orchestrator", "mlflow.source.type": "JOB"}


class MlflowTracker:
    """A `ports.Tracker` that writes to MLflow at `uri` through one buffered writer.

    `artifact_root` is the folder for artifacts beside an embedded database; a server keeps them itself.
    """

    def __init__(self, uri: str, artifact_root: Path) -> None:
        self._uri = uri
        self._sink = MlflowSink(uri, artifact_root)
        self._writer = BufferedWriter(self._sink)

    def check(self) -> None:
        check_uri(self._uri, CHECK_TIMEOUT_S)
        self._writer.start()

    def study_started(self, study: Study) -> None:
        self._writer.put(StudyStarted(study))

    def trial_changed(self, trial: Trial) -> None:
        self._writer.put(TrialChanged(trial))

    def metrics(self, trial_id: str, step: int, metrics: Mapping[str, float], at: float) -> None:
        self._writer.put(Point(trial_id, step, dict(metrics), at))

    def study_finished(self, study: Study, metrics: Mapping[str, float], artifacts: Sequence[Path]) -> None:
        self._writer.put(StudyFinished(study, dict(metrics), tuple(artifacts)))

    def close(self, timeout_s: float) -> bool:
        return self._writer.close(timeout_s)

    def study_page(self, study_id: str) -> str | None:
        """The path of the study's comparison on an MLflow server's pages; None until its experiment exists."""
        experiment_id = self._sink.experiment_ids.get(study_id)
        if experiment_id is None:
            return None
        # The pages take their layout from the address, "GenAI" by default; the experiment's own tag no longer decides.
        return f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={COMPARISON_VIEW}"

    def where_to_look(self, study_id: str) -> str:
        """The address on a server, or for a database the command that serves it and the address it then has."""
        page = self.study_page(study_id) or ""
        if self._uri.startswith("http"):
            return f"{self._uri.rstrip('/')}{page}"
        return f"{sys.executable} -m mlflow ui --backend-store-uri {self._uri}   then http://127.0.0.1:5000{page}"


class MlflowSink:
    """Writes records with MLflow's client. Every call can be repeated after a failure without leaving a second run."""

    def __init__(self, uri: str, artifact_root: Path) -> None:
        self._uri = uri
        self._artifact_root = artifact_root
        self._client: MlflowClient | None = None
        self._studies: dict[str, Study] = {}
        self._run_ids: dict[str, str] = {}
        self._described: set[str] = set()
        self._last_step: dict[str, int] = {}
        self._written: dict[str, tuple[dict[str, str], runs.RunStatus | None]] = {}
        self._unsure: set[str] = set()
        self.experiment_ids: dict[str, str] = {}

    def connect(self) -> None:
        self._connected().search_experiments(max_results=1)

    def answers(self) -> bool:
        try:
            check_uri(self._uri, CHECK_TIMEOUT_S)
        except TrackingUnavailable:
            return False
        return True

    def refused(self, error: Exception) -> bool:
        """An answer of class 4xx, but for "later" ones, or a record that belongs to no run."""
        # Asked by attribute, not by class: this must give an answer even if it was the import that failed.
        status = getattr(error, "get_http_status_code", None)
        if status is None:
            return isinstance(error, KeyError)
        return 400 <= status() < 500 and status() not in (408, 409, 429)

    def study_started(self, record: StudyStarted) -> None:
        study, client = record.study, self._connected()
        self._studies[study.study_id] = study
        experiment_id = self._experiment(study)
        self.experiment_ids[study.study_id] = experiment_id
        self._adopt(experiment_id)
        run_id = self._run_ids.get(study.study_id)
        if run_id is None:
            tags = {**runs.study_tags(study), **_SOURCE_TAGS}
            run_id = self._create_run(experiment_id, study.study_id, study.name, tags, study.submitted_at)
        else:
            client.update_run(run_id, status=runs.RunStatus.RUNNING)
        self._describe(run_id, study.config)

    def trial_changed(self, record: TrialChanged) -> None:
        trial, client = record.trial, self._connected()
        run_id = self._run_ids.get(trial.trial_id) or self._open_trial(trial)
        self._describe(run_id, trial.variant.config)
        status = runs.STATUS_OF[trial.state]
        tags = runs.state_tags(trial)
        if not trial.state.terminal:
            # A new run has its tags and MLflow's first status, RUNNING: each write that can be spared is 10 ms of CPU.
            written = self._written.get(run_id, ({}, None))
            if written[0] != tags:
                client.log_batch(run_id, tags=_run_tags(tags))
            if written[1] is not status:
                client.update_run(run_id, status=status)
            self._written[run_id] = (tags, status)
            return
        step = self._last_step.get(trial.trial_id, 0)
        ended_ms = _milliseconds(trial.ended_at if trial.ended_at is not None else trial.submitted_at)
        values = _metric_values(runs.final_metrics(trial), step, ended_ms)
        client.log_batch(run_id, metrics=values, tags=_run_tags(tags))
        if trial.error:
            client.log_text(run_id, trial.error, runs.ERROR_FILE)
        client.set_terminated(run_id, status=status, end_time=ended_ms)

    def points(self, trial_id: str, points: Sequence[Point]) -> None:
        run_id = self._run_ids[trial_id]
        values = (
            value for point in points for value in _metric_values(point.metrics, point.step, _milliseconds(point.at))
        )
        for chunk in _chunks(values, MAX_METRICS_PER_BATCH):
            self._connected().log_batch(run_id, metrics=chunk)
        last = max(point.step for point in points)
        self._last_step[trial_id] = max(last, self._last_step.get(trial_id, 0))

    def study_finished(self, record: StudyFinished) -> None:
        study, client = record.study, self._connected()
        run_id = self._run_ids[study.study_id]
        ended_ms = _milliseconds(study.ended_at if study.ended_at is not None else study.submitted_at)
        client.log_batch(run_id, metrics=_metric_values(runs.readable(record.metrics), 0, ended_ms))
        for path in record.artifacts:
            if path.exists():
                client.log_artifact(run_id, str(path))
            else:
                logger.warning("tracking: the artifact %s is gone and is left out", path)
        client.set_terminated(run_id, status=runs.RunStatus.FINISHED, end_time=ended_ms)

    def _connected(self) -> "MlflowClient":
        if self._client is None:
            # Read by mlflow on import, and per request. Someone who set them knows better.
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            # The writer retries by itself, in order; a request that hangs for minutes would hold up its `close`.
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
            from mlflow import MlflowClient

            # These print tracebacks of faults that the writer retries, and a page of migrations on a new database,
            # into the terminal that the live table is drawn on.
            for name, level in (("mlflow.store.db.utils", logging.CRITICAL), ("alembic", logging.WARNING)):
                logging.getLogger(name).setLevel(level)
            self._client = MlflowClient(tracking_uri=self._uri)
        return self._client

    def _experiment(self, study: Study) -> str:
        client, name = self._connected(), runs.experiment_name(study)
        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = None
        if self._uri.startswith("sqlite:"):
            location = (self._artifact_root / study.study_id).absolute().as_uri()
        return client.create_experiment(name, artifact_location=location, tags=_experiment_tags(study))

    def _adopt(self, experiment_id: str) -> None:
        """Find the runs that an earlier loop, or an attempt whose answer got lost, made in this experiment."""
        client, token = self._connected(), None
        while True:
            page = client.search_runs([experiment_id], page_token=token)
            for run in page:
                owner = run.data.tags.get("trial_id") or run.data.tags.get("study_id")
                if owner:
                    self._run_ids[owner] = run.info.run_id
            token = page.token
            if not token:
                return

    def _open_trial(self, trial: Trial) -> str:
        study = self._studies[trial.study_id]
        experiment_id = self.experiment_ids[study.study_id]
        if trial.trial_id in self._unsure:
            self._adopt(experiment_id)
            if trial.trial_id in self._run_ids:
                return self._run_ids[trial.trial_id]
        parent = {"mlflow.parentRunId": self._run_ids[study.study_id]}
        color = COLORS.get(trial.variant.algorithm)
        look = {} if color is None else {"mlflow.runColor": color}
        tags = {**runs.trial_tags(study, trial), **runs.state_tags(trial), **_SOURCE_TAGS, **parent, **look}
        run_id = self._create_run(experiment_id, trial.trial_id, runs.run_name(trial), tags, trial.submitted_at)
        self._written[run_id] = (runs.state_tags(trial), runs.RunStatus.RUNNING)
        return run_id

    def _create_run(self, experiment_id: str, owner: str, name: str, tags: Mapping[str, str], at: float) -> str:
        """A new run of `owner` (a study's or a trial's id). Unsure until it returns: a lost answer may hide a run."""
        cut = {key: value[:MAX_TAG_CHARS] for key, value in tags.items()}
        self._unsure.add(owner)
        run = self._connected().create_run(experiment_id, start_time=_milliseconds(at), tags=cut, run_name=name)
        self._unsure.discard(owner)
        self._run_ids[owner] = run.info.run_id
        return str(run.info.run_id)

    def _describe(self, run_id: str, config: Mapping[str, object]) -> None:
        """Params and the config file, once per run; writing the same again does no harm."""
        if run_id in self._described:
            return
        client = self._connected()
        for chunk in _chunks(_params(config), MAX_PARAMS_PER_BATCH):
            client.log_batch(run_id, params=chunk)
        client.log_text(run_id, runs.config_yaml(config), runs.CONFIG_FILE)
        self._described.add(run_id)


def _experiment_tags(study: Study) -> dict[str, str]:
    """How the study's page looks: its kind, what is compared, and two saved views under the page's "Views" button."""
    # Runs nest only while they are sorted by time, and MLflow drops which ones are expanded from a saved view: sorted
    # by accuracy, all trials are in sight, the best on top and the study's own run at the end.
    trials = {"orderByKey": "metrics.`accuracy`", "orderByAsc": False, **_columns(study), "runsHiddenMode": "SHOW_ALL"}
    by_algorithm = {
        **trials,
        "searchFilter": "tags.`orchestrator.kind` = 'trial'",
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "algorithm"}]},
    }
    return {
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.experiment.primaryMetric.name": "accuracy",
        "mlflow.experiment.primaryMetric.greaterIsBetter": "True",
        **_saved_view(ALGORITHMS_VIEW, "By algorithm", by_algorithm, study.submitted_at),
        **_saved_view(COMPARISON_VIEW, "Trials, best first", trials, study.submitted_at + 1.0),
    }


def _saved_view(key: str, name: str, state: Mapping[str, object], at: float) -> dict[str, str]:
    """The tag that the page's own "Save as new view" writes; servers before its names read the plain state beside."""
    return {
        f"mlflow.sharedViewState.{key}": json.dumps(
            {"name": name, "createdAt": _milliseconds(at), "state": json.dumps(state), **state}
        )
    }


def _columns(study: Study) -> dict[str, object]:
    """What was swept, what came of it and what it cost, in this order and in widths that one screen holds."""
    names = (override.partition("=")[0].lstrip("+") for override in study.sweep)
    columns = (f"params.`{name}`" for name in names if _is_param(name))
    swept = islice((column for column in columns if column not in _TRIAL_COLUMNS), MAX_SWEPT_COLUMNS)
    widths = {**_TRIAL_COLUMNS, **dict.fromkeys(swept, _SWEPT_COLUMN_WIDTH), **_RESULT_COLUMNS}
    name = "attributes.`Run Name`"
    return {
        "selectedColumns": list(widths),
        "columnOrder": [name, *widths],
        "columnWidths": {name: _RUN_NAME_WIDTH, **widths},
    }


def _is_param(name: str) -> bool:
    """Whether an override of that name sets a value, not the choice of a config group (`task`, `model/size@here`)."""
    return "." in name and len(name) <= MAX_SWEPT_NAME_CHARS and not set("/@~`") & set(name)


def _params(config: Mapping[str, object]) -> Iterator["Param"]:
    from mlflow.entities import Param

    for name, value in runs.flatten(config).items():
        yield Param(_name(name), value if len(value) <= MAX_PARAM_CHARS else value[: MAX_PARAM_CHARS - 1] + "…")


def _metric_values(metrics: Mapping[str, float], step: int, at_ms: int) -> list["Metric"]:
    from mlflow.entities import Metric

    return [Metric(_name(name), float(value), at_ms, step) for name, value in metrics.items()]


def _run_tags(tags: Mapping[str, str]) -> list["RunTag"]:
    from mlflow.entities import RunTag

    return [RunTag(name, value[:MAX_TAG_CHARS]) for name, value in tags.items()]


def _name(name: str) -> str:
    """`name` in the characters and the length that MLflow takes for params and metrics."""
    return _NAME_FORBIDS.sub("_", name)[:MAX_NAME_CHARS]


def _chunks(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while chunk := list(islice(items, size)):
        yield chunk


def _milliseconds(at: float) -> int:
    return int(1000 * at)
