"""Locks around a study and a machine."""

import os
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

from orchestrator import execution
from orchestrator.config import ConfigError
from orchestrator.events import RecordStudy
from orchestrator.execution import resume_study
from orchestrator.home import Home
from orchestrator.store.database import DatabaseStore
from tests.unit.orchestrator.builders import study


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.prepare()
    store = DatabaseStore(home.store_url)
    store.apply([RecordStudy(study=study("study-1"))])
    store.close()
    return home


def test_a_study_that_a_process_runs_is_not_resumed(home: Home) -> None:
    with FileLock(home.lock_path("study-1")), pytest.raises(ConfigError, match="a process is running it"):
        resume_study("study-1", home)


def test_an_unknown_study_is_refused_with_those_there_are(home: Home) -> None:
    with pytest.raises(ConfigError, match="no such study; the last ones are: study-1"):
        resume_study("nope", home)


def test_the_lock_tells_when_its_last_holder_was_alive(home: Home) -> None:
    path = home.lock_path("study-1")
    path.touch()
    os.utime(path, (1000.0, 1000.0))
    with execution._study_lock(home, "study-1") as alive_at:
        assert alive_at == 1000.0


def test_the_machine_is_one_runs_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution.tempfile, "gettempdir", lambda: str(tmp_path))
    with execution._machine_lock(Console()):
        (path,) = tmp_path.glob("orchestrator-devices-*.lock")
        assert FileLock(path).is_locked is False
        with pytest.raises(TimeoutError):
            FileLock(path).acquire(timeout=0)
    with FileLock(path).acquire(timeout=0):
        pass
