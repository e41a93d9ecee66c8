"""What MlflowTracker makes of faults of its backend; what a reader sees is in `tests/contracts/test_tracker.py`."""

import sqlite3
from pathlib import Path

import pytest

from orchestrator.tracking.mlflow import MlflowTracker
from tests.unit.orchestrator.builders import study

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
