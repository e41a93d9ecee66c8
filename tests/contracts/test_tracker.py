"""One suite for every `ports.Tracker`: what a reader finds after the journal was told, once or more than once."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from orchestrator.colors import ALGORITHM_COLORS
from orchestrator.ports import Tracker
from orchestrator.schema import Charge, JournalEntry, JournalKind, Study, Trial, TrialState
from orchestrator.throughput import EXPLANATIONS
from orchestrator.tracking import build_tracker
from orchestrator.tracking.memory import MemoryTracker
from orchestrator.tracking.mlflow import CHANGED_PARAMS_TAG
from orchestrator.tracking.mlflow_client import MAX_TAG_CHARS
from orchestrator.tracking.runs import NoRun
from tests.unit.orchestrator.builders import study, warm_started

AT = 1_700_000_000.0


@dataclass
class SeenRun:
    """A run as its reader sees it, whichever tracker wrote it. `series`: (step, value, seconds since the epoch)."""

    name: str
    status: str
    parent: str | None
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    series: dict[str, list[tuple[int, float, float]]]
    artifacts: dict[str, str]
    ended_at: float | None = None


@dataclass
class Seen:
    """The parents and children of one study's experiment, by study id and trial id."""

    experiment: str
    runs: dict[str, SeenRun] = field(default_factory=dict)


CONFIG = {
    "seed": 3,
    "algorithm": {"name": "grpo", "clip_low": 0.2},
    "optimizer": {"lr": 1e-3, "betas": [0.9, 0.98]},
    "prompt": "{question}",
    "note": "x" * 9000,
    "none": None,
    "many": {f"key{n}": n for n in range(150)},
}


def a_study() -> Study:
    return replace(
        study(at=AT), name="rl_vs_sft", sweep=("seed=0,1",), config={"seed": 0, "base": True}, git_revision="abc123"
    )


def a_trial(number: int = 0) -> Trial:
    trial = warm_started(number + 1)[number]
    overrides = ("algorithm=grpo", "optimizer.lr=0.001", "seed=3")
    variant = replace(trial.variant, algorithm="grpo", seed=3, overrides=overrides, config=CONFIG, key="variant-key")
    return replace(trial, variant=variant, submitted_at=AT)


def running(trial: Trial) -> Trial:
    return replace(trial, state=TrialState.RUNNING, started_at=AT + 1)


def ended(trial: Trial, state: TrialState, **changes: object) -> Trial:
    metrics = {"accuracy": 0.6, "tokens_per_answer": 3.5, "time_to_answer_p50_s": 0.01}
    return replace(trial, state=state, started_at=AT + 1, ended_at=AT + 9, metrics=metrics, gpu_seconds=4.5, **changes)


def point(trial: Trial, step: int, at: float = AT, **metrics: float) -> JournalEntry:
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    return JournalEntry(
        sequence=step + 1,
        at=at,
        kind=JournalKind.POINT,
        study_id=trial.study_id,
        trial_id=trial.trial_id,
        payload={"step": step, "metrics": named},
    )


class TrackerContract:
    """Subclasses give a `tracker` fixture, `again`, a second tracker on the same records, and `seen`."""

    def again(self, tracker: Tracker) -> Tracker:
        raise NotImplementedError

    def seen(self, tracker: Tracker) -> Seen:
        raise NotImplementedError

    def test_a_place_that_can_be_written_passes_the_check(self, tracker: Tracker) -> None:
        tracker.check()

    def test_a_study_is_one_experiment_with_a_parent_run(self, tracker: Tracker) -> None:
        tracker.study_started(a_study())
        seen = self.seen(tracker)
        parent = seen.runs["study-1"]
        assert seen.experiment == "rl_vs_sft/study-1"
        assert (parent.name, parent.parent, parent.status) == ("rl_vs_sft", None, "RUNNING")
        assert parent.params == {"seed": "0", "base": "true"}
        assert parent.artifacts["config.yaml"] == "seed: 0\nbase: true\n"
        assert (
            parent.tags.items()
            >= {
                "orchestrator.kind": "study",
                "study_id": "study-1",
                "device_kind": "cpu",
                "sweep": "seed=0,1",
                "git revision": "abc123",
                "mlflow.source.git.commit": "abc123",
            }.items()
        )

    def test_the_first_change_opens_a_child_run_that_says_what_the_trial_is(self, tracker: Tracker) -> None:
        tracker.study_started(a_study())
        tracker.trial_changed(a_study(), a_trial())
        run = self.seen(tracker).runs["study-1-0000"]
        assert (run.parent, run.status) == ("study-1", "SCHEDULED")
        assert run.name == "000 grpo lr=0.001 seed=3"
        assert (
            run.tags.items()
            >= {
                "orchestrator.kind": "trial",
                "trial_id": "study-1-0000",
                "device_kind": "cpu",
                "variant_key": "variant-key",
                "algorithm": "grpo",
                "git revision": "abc123",
                "state": "queued",
            }.items()
        )

    def test_the_flattened_config_is_in_the_params_and_the_resolved_one_is_an_artifact(self, tracker: Tracker) -> None:
        import yaml

        tracker.study_started(a_study())
        tracker.trial_changed(a_study(), a_trial())
        run = self.seen(tracker).runs["study-1-0000"]
        assert (
            run.params.items()
            >= {
                "seed": "3",
                "algorithm.name": "grpo",
                "optimizer.lr": "0.001",
                "optimizer.betas": "[0.9, 0.98]",
                "prompt": "{question}",
                "none": "null",
                "many.key149": "149",
            }.items()
        )
        assert run.params["note"].startswith("xxx")
        assert yaml.safe_load(run.artifacts["config.yaml"]) == CONFIG

    @pytest.mark.parametrize(
        ("state", "status"),
        [
            (TrialState.QUEUED, "SCHEDULED"),
            (TrialState.RUNNING, "RUNNING"),
            (TrialState.PAUSED, "SCHEDULED"),
            (TrialState.COMPLETED, "FINISHED"),
            (TrialState.PRUNED, "FINISHED"),
            (TrialState.FAILED, "FAILED"),
            (TrialState.CANCELLED, "KILLED"),
        ],
    )
    def test_the_run_follows_the_state_of_the_trial(self, tracker: Tracker, state: TrialState, status: str) -> None:
        trial = a_trial()
        tracker.study_started(a_study())
        tracker.trial_changed(a_study(), trial)
        tracker.trial_changed(a_study(), ended(trial, state) if state.terminal else replace(trial, state=state))
        run = self.seen(tracker).runs[trial.trial_id]
        assert (run.status, run.tags["state"]) == (status, str(state))
        assert run.ended_at == (pytest.approx(AT + 9, abs=0.002) if state.terminal else None)

    def test_series_keep_their_steps_values_and_times_in_order(self, tracker: Tracker) -> None:
        trial = running(a_trial())
        tracker.study_started(a_study())
        tracker.trial_changed(a_study(), trial)
        tracker.points(
            a_study(), trial.trial_id, [point(trial, n, AT + n, train__loss=1.0 / (n + 1)) for n in range(3)]
        )
        tracker.points(a_study(), trial.trial_id, [point(trial, 2, AT + 2.5, eval__accuracy=0.5)])
        series = self.seen(tracker).runs[trial.trial_id].series
        assert series["train/loss"] == [(0, 1.0, AT), (1, 0.5, AT + 1), (2, pytest.approx(1 / 3), AT + 2)]
        assert series["eval/accuracy"] == [(2, 0.5, AT + 2.5)]

    def test_more_points_than_a_batch_holds_arrive(self, tracker: Tracker) -> None:
        trial = running(a_trial())
        tracker.trial_changed(a_study(), trial)
        points = [point(trial, n, AT + n, a=1.0, b=2.0, c=3.0) for n in range(400)]
        tracker.points(a_study(), trial.trial_id, points)
        series = self.seen(tracker).runs[trial.trial_id].series
        steps = {name: [step for step, _, _ in values] for name, values in series.items()}
        assert steps == {name: list(range(400)) for name in "abc"}

    def test_a_value_that_is_no_number_does_not_stop_the_others(self, tracker: Tracker) -> None:
        trial = running(a_trial())
        tracker.trial_changed(a_study(), trial)
        tracker.points(a_study(), trial.trial_id, [point(trial, 0, train__loss=math.nan, train__reward=0.25)])
        metrics = self.seen(tracker).runs[trial.trial_id].metrics
        assert math.isnan(metrics["train/loss"])
        assert metrics["train/reward"] == 0.25

    def test_a_terminal_state_logs_what_the_trial_achieved_and_cost(self, tracker: Tracker) -> None:
        trial = running(a_trial())
        tracker.study_started(a_study())
        tracker.trial_changed(a_study(), trial)
        tracker.points(a_study(), trial.trial_id, [point(trial, 7, eval__accuracy=0.5)])
        tracker.trial_changed(a_study(), ended(trial, TrialState.COMPLETED, stage_index=2))
        metrics = self.seen(tracker).runs[trial.trial_id].metrics
        assert metrics == {
            "accuracy": 0.6,
            "tokens_per_answer": 3.5,
            "time_to_answer_p50_s": 0.01,
            "gpu_seconds": 4.5,
            "budget_fraction": 1.0,
            "eval/accuracy": 0.5,
        }

    def test_a_trial_that_was_in_stacks_shows_which_and_what_it_held_there(self, tracker: Tracker) -> None:
        trial = running(a_trial())
        charge = Charge(vacated_s=1.5, fused_s=5.0, stack_ids=("first", "second"), width=8)
        tracker.study_started(a_study())
        tracker.trial_changed(a_study(), trial)
        for _ in range(2):
            tracker.trial_changed(a_study(), ended(trial, TrialState.COMPLETED, stage_index=2), charge)
        run = self.seen(tracker).runs[trial.trial_id]
        assert (run.tags["stack_ids"], run.tags["stack_width"]) == ("first second", "8")
        assert (run.metrics["gpu_seconds"], run.metrics["gpu_seconds_fused"]) == (6.0, 5.0)
        assert len(run.series["gpu_seconds"]) == 1

    def test_a_failed_trial_shows_its_error(self, tracker: Tracker) -> None:
        trial = a_trial()
        error = "\n".join(f"line {n}" for n in range(2000)) + "\nValueError: no such token"
        tracker.study_started(a_study())
        tracker.trial_changed(a_study(), ended(trial, TrialState.FAILED, error=error))
        run = self.seen(tracker).runs[trial.trial_id]
        assert run.tags["error"].endswith("ValueError: no such token")
        assert len(run.tags["error"]) <= 500
        assert run.artifacts["error.txt"] == error

    def test_the_parent_ends_with_the_throughput_and_the_report(self, tracker: Tracker, tmp_path: Path) -> None:
        numbers = {name: float(n) for n, name in enumerate(EXPLANATIONS)}
        report = tmp_path / "report.json"
        report.write_text('{"study": {}}', encoding="utf-8")
        tracker.study_started(a_study())
        tracker.study_finished(replace(a_study(), ended_at=AT + 20), numbers, [report])
        parent = self.seen(tracker).runs["study-1"]
        assert parent.metrics == numbers
        assert parent.artifacts["report.json"] == '{"study": {}}'
        assert (parent.status, parent.ended_at) == ("FINISHED", pytest.approx(AT + 20, abs=0.002))

    def test_a_point_of_a_trial_without_a_run_is_refused(self, tracker: Tracker) -> None:
        tracker.study_started(a_study())
        with pytest.raises(NoRun) as caught:
            tracker.points(a_study(), "study-1-0000", [point(a_trial(), 0, train__loss=1.0)])
        assert tracker.refused(caught.value)
        assert set(self.seen(tracker).runs) == {"study-1"}

    def test_it_answers(self, tracker: Tracker) -> None:
        tracker.study_started(a_study())
        assert tracker.answers()
        assert not tracker.refused(ConnectionError("gone"))

    def tell_everything(self, tracker: Tracker, report: Path) -> None:
        """The life of a study of two trials."""
        study, first, second = a_study(), a_trial(0), a_trial(1)
        tracker.study_started(study)
        for trial in (first, second):
            tracker.trial_changed(study, trial)
            tracker.trial_changed(study, running(trial))
            values = [point(trial, n, AT + n, train__loss=1.0 / (n + 1), x=math.nan) for n in range(5)]
            tracker.points(study, trial.trial_id, values)
        tracker.trial_changed(study, ended(first, TrialState.COMPLETED, stage_index=2))
        tracker.trial_changed(study, ended(second, TrialState.FAILED, error="boom"))
        tracker.study_finished(replace(study, ended_at=AT + 20), {"experiments_decided": 1.0}, [report])

    @pytest.mark.parametrize("by_another_process", [False, True])
    def test_all_told_twice_is_there_once(self, tracker: Tracker, tmp_path: Path, by_another_process: bool) -> None:
        report = tmp_path / "report.json"
        report.write_text("{}", encoding="utf-8")
        self.tell_everything(tracker, report)
        once = self.seen(tracker)
        assert {run.status for run in once.runs.values()} == {"FINISHED", "FAILED"}
        repeated = self.again(tracker) if by_another_process else tracker
        self.tell_everything(repeated, report)
        assert repr(self.seen(repeated)) == repr(once)

    def test_points_that_overlap_with_those_told_before_leave_a_monotone_axis(self, tracker: Tracker) -> None:
        trial = running(a_trial())
        tracker.trial_changed(a_study(), trial)
        points = [point(trial, n, AT + n, train__loss=float(n)) for n in range(10)]
        tracker.points(a_study(), trial.trial_id, points[:6])
        successor = self.again(tracker)
        successor.points(a_study(), trial.trial_id, points[3:])
        series = self.seen(successor).runs[trial.trial_id].series["train/loss"]
        assert series == [(n, float(n), AT + n) for n in range(10)]

    @pytest.mark.parametrize("by_another_process", [False, True])
    def test_a_trial_that_gets_another_chance_reopens_its_run(self, tracker: Tracker, by_another_process: bool) -> None:
        trial = a_trial()
        tracker.study_started(a_study())
        tracker.trial_changed(a_study(), ended(trial, TrialState.FAILED, error="boom"))
        tracker.study_finished(replace(a_study(), ended_at=AT + 20), {}, [])
        successor = self.again(tracker) if by_another_process else tracker
        successor.study_started(a_study())
        successor.trial_changed(a_study(), replace(trial, attempt=1))
        runs = self.seen(successor).runs
        assert (runs["study-1"].status, runs[trial.trial_id].status) == ("RUNNING", "SCHEDULED")
        assert runs[trial.trial_id].tags["state"] == "queued"
        assert "error" not in runs[trial.trial_id].tags
        successor.trial_changed(a_study(), running(replace(trial, attempt=1)))
        assert self.seen(successor).runs[trial.trial_id].status == "RUNNING"

    def test_a_study_that_is_over_is_not_reopened_by_a_late_change(self, tracker: Tracker) -> None:
        over = replace(a_study(), ended_at=AT + 20)
        tracker.study_started(a_study())
        tracker.study_finished(over, {}, [])
        tracker.study_started(replace(over, priority=7))
        parent = self.seen(tracker).runs["study-1"]
        assert (parent.status, parent.tags["priority"]) == ("FINISHED", "7")

    @pytest.mark.parametrize(
        ("states", "status"),
        [
            ([TrialState.CANCELLED, TrialState.CANCELLED], "KILLED"),
            ([TrialState.CANCELLED, TrialState.COMPLETED], "FINISHED"),
            ([TrialState.FAILED, TrialState.FAILED], "FINISHED"),
        ],
    )
    def test_a_study_ends_killed_if_all_of_it_was_cancelled(
        self, tracker: Tracker, states: list[TrialState], status: str
    ) -> None:
        for number, state in enumerate(states):
            tracker.trial_changed(a_study(), ended(a_trial(number), state))
        successor = self.again(tracker)
        successor.study_finished(replace(a_study(), ended_at=AT + 20), {}, [])
        assert self.seen(successor).runs["study-1"].status == status

    def test_the_tags_say_whose_it_is_where_it_comes_from_and_how_often_it_made_room(self, tracker: Tracker) -> None:
        study = replace(a_study(), tenant="vision", priority=3)
        trial = replace(a_trial(), cloned_from="study-0-0004", preemptions=2)
        tracker.study_started(study)
        tracker.trial_changed(study, trial)
        runs = self.seen(tracker).runs
        assert runs["study-1"].tags.items() >= {"tenant": "vision", "priority": "3"}.items()
        assert (
            runs[trial.trial_id].tags.items()
            >= {"tenant": "vision", "cloned_from": "study-0-0004", "preemptions": "2"}.items()
        )

    def test_an_extended_trial_shows_its_new_variant(self, tracker: Tracker) -> None:
        trial = a_trial()
        tracker.trial_changed(a_study(), ended(trial, TrialState.COMPLETED, stage_index=2))
        config = CONFIG | {"seed": 4, "extra": 1}
        variant = replace(trial.variant, key="longer", overrides=("algorithm=grpo", "seed=4"), config=config)
        tracker.trial_changed(a_study(), replace(trial, variant=variant))
        run = self.seen(tracker).runs[trial.trial_id]
        assert (run.name, run.tags["variant_key"], run.params["extra"]) == ("000 grpo seed=4", "longer", "1")
        assert "seed: 4\n" in run.artifacts["config.yaml"]
        assert run.params["seed"] == "4" or run.tags[CHANGED_PARAMS_TAG] == "seed=4"

    def test_secrets_are_nowhere(self, tracker: Tracker) -> None:
        config = {"task": {"api_key": "hunter2", "max_answer_tokens": 4}, "uri": "http://u:hunter2@host"}
        overrides = ("task.api_key=hunter2", "tracking.uri=http://u:hunter2@host")
        study = replace(a_study(), config=config, sweep=overrides, overrides=overrides)
        trial = a_trial()
        variant = replace(trial.variant, config=config, overrides=overrides)
        error = "OperationalError: postgresql://me:hunter2@host is away"
        tracker.study_started(study)
        tracker.trial_changed(study, ended(replace(trial, variant=variant), TrialState.FAILED, error=error))
        seen = self.seen(tracker)
        assert "hunter2" not in repr(seen)
        assert seen.runs[trial.trial_id].params["task.max_answer_tokens"] == "4"
        assert seen.runs[trial.trial_id].tags["error"].endswith("postgresql://me:***@host is away")


class TestMemoryTracker(TrackerContract):
    @pytest.fixture
    def tracker(self) -> Tracker:
        return build_tracker("memory")

    def again(self, tracker: Tracker) -> Tracker:
        return tracker

    def seen(self, tracker: Tracker) -> Seen:
        assert isinstance(tracker, MemoryTracker)
        seen = Seen(experiment=tracker.experiments["study-1"])
        for owner, run in tracker.runs.items():
            seen.runs[owner] = SeenRun(
                name=run.name,
                status=str(run.status),
                parent=run.parent,
                tags=run.tags,
                params=run.params,
                metrics=run.metrics,
                series={name: [(p.step, p.value, p.at) for p in points] for name, points in run.series.items()},
                artifacts=run.artifacts,
                ended_at=run.ended_at,
            )
        return seen


class MlflowContract(TrackerContract):
    """Read back through MLflow's own client; `uri` and `artifacts` are fixtures."""

    # MLflow's own code warns about what it will change; it is not ours to fix.
    pytestmark = pytest.mark.filterwarnings("default")

    @pytest.fixture
    def tracker(self, uri: str, artifacts: Path) -> Tracker:
        self.uri, self.artifacts = uri, artifacts
        return build_tracker("mlflow", uri=uri, artifacts=artifacts)

    def again(self, tracker: Tracker) -> Tracker:
        return build_tracker("mlflow", uri=self.uri, artifacts=self.artifacts)

    def seen(self, tracker: Tracker) -> Seen:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self.uri)
        (experiment,) = (e for e in client.search_experiments() if e.name.endswith("/study-1"))
        seen = Seen(experiment=experiment.name)
        owners = {}
        runs = client.search_runs([experiment.experiment_id])
        for run in runs:
            owners[run.info.run_id] = run.data.tags.get("trial_id") or run.data.tags["study_id"]
        assert len(set(owners.values())) == len(runs), "a trial has two runs"
        for run in runs:
            parent = run.data.tags.get("mlflow.parentRunId")
            seen.runs[owners[run.info.run_id]] = SeenRun(
                name=run.info.run_name,
                status=run.info.status,
                parent=owners.get(parent),
                tags=run.data.tags,
                params=run.data.params,
                metrics=run.data.metrics,
                series={name: self.points(client, run.info.run_id, name) for name in run.data.metrics},
                artifacts=self.files(client, run.info.run_id),
                ended_at=run.info.end_time and run.info.end_time / 1000,
            )
        return seen

    @staticmethod
    def points(client, run_id: str, name: str) -> list[tuple[int, float, float]]:
        return [(m.step, m.value, m.timestamp / 1000) for m in client.get_metric_history(run_id, name)]

    @staticmethod
    def files(client, run_id: str) -> dict[str, str]:
        names = [file.path for file in client.list_artifacts(run_id)]
        return {name: Path(client.download_artifacts(run_id, name)).read_text(encoding="utf-8") for name in names}

    def experiment(self, tracker: Tracker, study: Study):
        from mlflow import MlflowClient

        tracker.study_started(study)
        return MlflowClient(tracking_uri=self.uri).get_experiment_by_name("rl_vs_sft/study-1")

    def test_a_study_opens_in_the_layout_for_training(self, tracker: Tracker) -> None:
        experiment = self.experiment(tracker, a_study())
        assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
        assert (
            self.again(tracker)
            .where_to_look("study-1")
            .endswith(
                f"/#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning&viewStateShareKey=comparison"
            )
        )

    def test_there_is_nothing_to_look_at_before_the_first_record(self, tracker: Tracker) -> None:
        assert tracker.where_to_look("study-1") == ""

    def test_of_two_runs_that_a_lost_answer_left_one_stays(self, tracker: Tracker) -> None:
        from mlflow import MlflowClient

        trial = running(a_trial())
        tracker.trial_changed(a_study(), trial)
        tracker.points(a_study(), trial.trial_id, [point(trial, 0, train__loss=1.0)])
        client = MlflowClient(tracking_uri=self.uri)
        (experiment,) = (e for e in client.search_experiments() if e.name.endswith("/study-1"))
        for owner in ({"trial_id": trial.trial_id, "study_id": "study-1"}, {"study_id": "study-1"}):
            client.create_run(experiment.experiment_id, tags=owner)
        successor = self.again(tracker)
        successor.trial_changed(a_study(), ended(trial, TrialState.COMPLETED))
        run = self.seen(successor).runs[trial.trial_id]
        assert (run.status, run.series["train/loss"]) == ("FINISHED", [(0, 1.0, AT)])

    def test_a_run_that_somebody_deleted_is_refused(self, tracker: Tracker) -> None:
        from mlflow import MlflowClient, MlflowException

        trial = running(a_trial())
        tracker.trial_changed(a_study(), trial)
        client = MlflowClient(tracking_uri=self.uri)
        (experiment,) = (e for e in client.search_experiments() if e.name.endswith("/study-1"))
        for run in client.search_runs([experiment.experiment_id], "tags.trial_id != ''"):
            client.delete_run(run.info.run_id)
        with pytest.raises(MlflowException) as caught:
            tracker.points(a_study(), trial.trial_id, [point(trial, 0, train__loss=1.0)])
        assert tracker.refused(caught.value)
        assert tracker.answers()

    def test_the_saved_view_lists_all_trials_the_best_first_in_the_columns_that_matter(self, tracker: Tracker) -> None:
        sweep = ("algorithm=sft,grpo", "optimizer.lr=5e-4,1e-3", "+algorithm.clip=0.1,0.2", "model/size@model=a,b")
        experiment = self.experiment(tracker, replace(a_study(), sweep=sweep))
        tag = json.loads(experiment.tags["mlflow.sharedViewState.comparison"])
        state = json.loads(tag["state"])
        assert (tag["name"], type(tag["createdAt"])) == ("Trials, best first", int)
        # Sorted by anything but time, or the trials would be folded under the study's run.
        assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`accuracy`", False)
        assert state["runsHiddenMode"] == "SHOW_ALL"
        assert state["selectedColumns"][:9] == [
            "tags.`algorithm`",
            "params.`optimizer.lr`",
            "params.`seed`",
            "params.`algorithm.clip`",
            "metrics.`accuracy`",
            "metrics.`dev_accuracy`",
            "metrics.`gpu_seconds`",
            "metrics.`tokens_per_answer`",
            "metrics.`time_to_answer_p50_s`",
        ]
        assert set(state["columnWidths"]) == set(state["columnOrder"]) > set(state["selectedColumns"])
        assert tag.items() >= state.items()

    def test_a_second_saved_view_groups_the_trials_by_algorithm(self, tracker: Tracker) -> None:
        experiment = self.experiment(tracker, a_study())
        state = json.loads(json.loads(experiment.tags["mlflow.sharedViewState.algorithms"])["state"])
        assert state["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "algorithm"}]

    def test_a_sweep_over_many_things_does_not_outgrow_the_tags(self, tracker: Tracker) -> None:
        sweep = tuple(f"{'very.long.' * 3}name{n:06d}=1,2" for n in range(40))
        experiment = self.experiment(tracker, replace(a_study(), sweep=sweep))
        assert "very.long.name000005" in experiment.tags["mlflow.sharedViewState.comparison"]
        assert max(len(value) for value in experiment.tags.values()) <= MAX_TAG_CHARS

    def test_the_runs_of_an_algorithm_share_a_colour(self, tracker: Tracker) -> None:
        tracker.study_started(a_study())
        tracker.trial_changed(a_study(), a_trial())
        assert self.seen(tracker).runs["study-1-0000"].tags["mlflow.runColor"] == ALGORITHM_COLORS["grpo"]


@pytest.fixture(scope="module")
def sqlite_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An empty MLflow database: creating one takes seconds, copying it none."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return str(path)


class TestMlflowOnSqlite(MlflowContract):
    @pytest.fixture
    def uri(self, tmp_path: Path, sqlite_uri: str) -> str:
        copy = tmp_path / "mlflow.db"
        copy.write_bytes(Path(sqlite_uri).read_bytes())
        return f"sqlite:///{copy}"

    @pytest.fixture
    def artifacts(self, tmp_path: Path) -> Path:
        return tmp_path / "artifacts"

    def test_artifacts_lie_under_the_given_folder(self, tracker: Tracker, artifacts: Path) -> None:
        tracker.study_started(a_study())
        assert [path.read_text() for path in artifacts.rglob("config.yaml")] == ["seed: 0\nbase: true\n"]


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += [
        "--backend-store-uri",
        f"sqlite:///{home}/mlflow.db",
        "--artifacts-destination",
        f"{home}/artifacts",
    ]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
    )
    uri = f"http://127.0.0.1:{port}"
    wait_until_it_answers(uri, process)
    yield uri
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(30)


def wait_until_it_answers(uri: str, process: subprocess.Popen[bytes]) -> None:
    from orchestrator.ports import TrackingUnavailable
    from orchestrator.tracking.reachability import check_uri

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return check_uri(uri, 3.0)
        except TrackingUnavailable:
            time.sleep(0.5)
    raise AssertionError("the MLflow server did not come up")


@pytest.mark.slow
class TestMlflowOnAServer(MlflowContract):
    @pytest.fixture
    def uri(self, mlflow_server: str) -> Iterator[str]:
        from mlflow import MlflowClient

        yield mlflow_server
        client = MlflowClient(tracking_uri=mlflow_server)
        for experiment in client.search_experiments():
            if experiment.name.endswith("/study-1"):
                # The name of a deleted experiment stays taken; each test needs it anew.
                client.rename_experiment(experiment.experiment_id, f"{experiment.experiment_id} of another test")

    @pytest.fixture
    def artifacts(self, tmp_path: Path) -> Path:
        return tmp_path / "unused"
