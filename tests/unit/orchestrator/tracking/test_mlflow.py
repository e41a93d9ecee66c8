"""What MlflowTracker makes of faults of its backend; what a reader sees is in `tests/contracts/test_tracker.py`."""

import sqlite3
from pathlib import Path

import pytest

from orchestrator.tracking.mlflow import MlflowTracker
from tests.unit.orchestrator.builders import study, warm_started

# MLflow's own code warns about what it will change; it is not ours to fix.
pytestmark = pytest.mark.filterwarnings("default")


class Answer(Exception):
    """An MLflow error of an HTTP status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self._status = status

    def get_http_status_code(self) -> int:
        return self._status


@pytest.mark.parametrize(
    ("status", "refused"),
    [(400, True), (404, True), (401, False), (403, False), (409, False), (429, False), (500, False)],
)
def test_only_an_answer_that_never_changes_is_a_refusal(status: int, refused: bool, tmp_path: Path) -> None:
    assert MlflowTracker("http://127.0.0.1:9", tmp_path).refused(Answer(status)) is refused


@pytest.mark.slow
def test_a_locked_database_does_not_answer(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    tracker = MlflowTracker(f"sqlite:///{path}", tmp_path / "artifacts")
    tracker.study_started(study())
    assert tracker.answers()
    connection = sqlite3.connect(path)
    connection.execute("begin exclusive")
    assert not tracker.answers()
    connection.rollback()
    connection.close()
    assert tracker.answers()


def test_files_of_a_study_that_was_never_tracked_are_attached_to_nothing(tmp_path: Path) -> None:
    tracker = MlflowTracker(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts")
    assert not tracker.attach(study(), "study-1-0000", [], "profiles/one")
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.slow
def test_files_are_attached_to_the_run_of_a_trial_and_to_no_other(tmp_path: Path) -> None:
    trial, other = warm_started(2)
    tracker = MlflowTracker(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts")
    tracker.study_started(study())
    tracker.trial_changed(study(), trial)
    file = tmp_path / "trace.json.gz"
    file.write_text("trace")
    assert tracker.attach(study(), trial.trial_id, [file], "profiles/one")
    assert not tracker.attach(study(), other.trial_id, [file], "profiles/one")
    (stored,) = (tmp_path / "artifacts").rglob("profiles/one/trace.json.gz")
    assert stored.read_text() == "trace"
    tags = [
        run.data.tags.get("trial_id") for run in tracker.client.search_runs(["1"]) if run.info.run_id in str(stored)
    ]
    assert tags == [trial.trial_id]
