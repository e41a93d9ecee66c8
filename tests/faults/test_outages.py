"""The store or the tracker is away for a while: the loop waits and says so, training goes on, nothing is missing."""

import contextlib
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.schema import JournalKind, TrialState
from tests.faults.payload import REPORT_EVERY
from tests.faults.site import Site

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own
SHORT_S = 8.0  # longer than a commit waits by itself
LONG_S = 30.0
TRACKER_AWAY_S = 60.0


def steps_reported(site: Site, study_id: str) -> dict[str, list[int]]:
    """By trial, the steps of its last stage in the journal."""
    found: dict[str, list[int]] = {trial.trial_id: [] for trial in site.store.trials(study_id)}
    for entry in site.store.journal(0, 100_000):
        if entry.kind is JournalKind.POINT and "train/loss" in entry.payload["metrics"]:
            found[entry.trial_id].append(entry.payload["step"])
    return found


def went_on_and_lost_nothing(site: Site, study_id: str, steps: int) -> None:
    site.wait_until_over()
    trials = site.store.trials(study_id)
    assert {trial.state for trial in trials} == {TrialState.COMPLETED}
    assert {trial.attempt for trial in trials} <= {1, 2}  # nobody was started again: the warm-up and the last stage
    wanted = list(range(REPORT_EVERY, steps + 1, REPORT_EVERY))
    assert all(reported == wanted for reported in steps_reported(site, study_id).values())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    home = tmp_path / "home"
    home.mkdir()
    return home


@pytest.mark.slow
@pytest.mark.parametrize("away_s", [SHORT_S, LONG_S])
def test_a_store_that_is_locked(home: Path, away_s: float) -> None:
    site, steps = Site(home), int(20 * away_s)
    try:
        study_id = site.submit(trials=2, steps=steps)
        site.service.keep_up(1)
        site.wait_until_running(0)
        other = sqlite3.connect(home / "store.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        time.sleep(away_s)
        other.execute("ROLLBACK")
        other.close()
        went_on_and_lost_nothing(site, study_id, steps)
        assert "waiting for it, training goes on" in site.said()
        assert "store: there again after" in site.said()
    finally:
        site.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of eight megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("a full disk needs a file system of its own, which only root can mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """A file that leaves no room for another block."""
    path = disk / "filler"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while os.write(descriptor, b"x" * 4096):
            pass
    os.close(descriptor)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("away_s", [SHORT_S, LONG_S])
def test_the_disk_of_the_store_is_full(home: Path, small_disk: Path, away_s: float) -> None:
    site, steps = Site(home, store_path=small_disk / "store.db"), int(20 * away_s)
    try:
        study_id = site.submit(trials=2, steps=steps)
        site.service.keep_up(1)
        site.wait_until_running(0)
        filler = fill(small_disk)
        time.sleep(away_s)
        filler.unlink()
        went_on_and_lost_nothing(site, study_id, steps)
        assert "waiting for it, training goes on" in site.said()
    finally:
        site.close()


def mlflow_server(folder: Path, port: int) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 60.0
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
def test_the_tracking_server_is_away_for_a_minute(home: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = mlflow_server(tmp_path, port)
    wait_for_port(port)
    site, steps = Site(home, tracking=f"mlflow tracking.uri=http://127.0.0.1:{port}"), 400
    try:
        study_id = site.submit(trials=2, steps=steps)
        site.service.keep_up(1)
        site.wait_until_running(0)
        os.killpg(server.pid, 9)
        server.wait()
        time.sleep(TRACKER_AWAY_S)
        site.wait_until_over()  # training did not wait for it
        server = mlflow_server(tmp_path, port)
        wait_for_port(port)
        site.wait(lambda: site.store.forwarded() == site.store.journal_end())
        client = MlflowClient(f"http://127.0.0.1:{port}")
        experiment = client.get_experiment_by_name(f"faults/{study_id}")
        trials = client.search_runs([experiment.experiment_id], "tags.`orchestrator.kind` = 'trial'")
        assert len(trials) == 2
        for run in trials:
            points = client.get_metric_history(run.info.run_id, "train/loss")
            assert [point.step for point in points] == list(range(REPORT_EVERY, steps + 1, REPORT_EVERY))
    finally:
        site.close()
        os.killpg(server.pid, 9)
        server.wait()
