"""Locks around a study and a machine."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

from orchestrator import execution
from orchestrator.config import ConfigError
from orchestrator.events import RecordStudy, RecordTrial
from orchestrator.execution import resume_study
from orchestrator.home import Home
from orchestrator.schema import Demand, TrialState
from orchestrator.store.database import DatabaseStore
from tests.unit.orchestrator.builders import GIB, device, study, warm_started


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


def test_a_demand_that_no_device_could_hold_is_refused() -> None:
    demand = Demand(devices=1, share=1.0, memory_bytes=9 * GIB)
    with pytest.raises(ConfigError, match=r"need 9.0 GiB of a device, the largest has 8.0"):
        execution._check_memory([demand], [device(0)])


@pytest.mark.parametrize(("states", "code"), [(("completed", "pruned"), 0), (("completed", "failed"), 1)])
def test_a_study_that_is_over_is_not_run_again(
    tmp_path: Path, states: tuple[str, ...], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path)
    home.prepare()
    store = DatabaseStore(home.store_url)
    store.apply([RecordStudy(study=replace(study("study-1"), ended_at=9.0))])
    for trial, state in zip(warm_started(len(states)), states, strict=True):
        store.apply([RecordTrial(trial=replace(trial, state=TrialState(state)))])
    store.close()
    assert resume_study("study-1", home) == code
    assert "study-1 is over, nothing is left to do; see: orchestrator report study-1" in capsys.readouterr().out


def test_waiting_with_the_lock_does_not_move_the_time_of_the_last_sign_of_life(home: Home) -> None:
    path = home.lock_path("study-1")
    path.touch()
    os.utime(path, (1000.0, 1000.0))
    with execution._study_lock(home, "study-1"):
        assert path.stat().st_mtime == 1000.0


def test_a_key_that_the_clusters_constructor_does_not_take_is_refused(home: Home) -> None:
    cluster = {
        "name": "local",
        "implementation": "cluster.local:LocalCluster",
        "devices": 0,
        "devices_per_trial": 1,
        "nope": 1,
    }
    with pytest.raises(ConfigError, match=r"^cluster.implementation=.*'nope'"):
        execution._build_cluster(cluster, home)
