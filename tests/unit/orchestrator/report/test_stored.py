"""Listing what the store holds."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from orchestrator.events import RecordStudy, RecordTrial
from orchestrator.home import Home
from orchestrator.report.stored import print_studies
from orchestrator.schema import TrialState
from orchestrator.store.database import DatabaseStore
from tests.unit.orchestrator.builders import study, warm_started

LONG_ID = "rl_vs_sft-20261124-184158-6b88"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with one study, of which one trial of two is decided."""
    home = Home(tmp_path)
    home.prepare()
    store = DatabaseStore(home.store_url)
    first, second = warm_started(2, LONG_ID)
    store.apply([RecordStudy(study=study(LONG_ID)), RecordTrial(trial=replace(first, state=TrialState.COMPLETED))])
    store.apply([RecordTrial(trial=second)])
    store.close()
    return home


def listed(home: Home, capsys: pytest.CaptureFixture[str]) -> str:
    print_studies(home)
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", ["60", "80"])
def test_an_id_is_never_cut(
    home: Home, columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert LONG_ID in listed(home, capsys)


def test_a_study_that_a_process_runs_is_told_from_one_that_was_interrupted(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home.lock_path(LONG_ID)
    with FileLock(path):
        assert listed(home, capsys).rstrip().endswith("running")
    path.touch()
    os.utime(path, (1000.0, 1000.0))
    assert listed(home, capsys).rstrip().endswith("interrupted")
    assert path.stat().st_mtime == 1000.0
