"""The tracking process and its supervisor, on a real store, a real MLflow database and real signals."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.store.database import DatabaseStore
from orchestrator.tracking import process as process_module
from orchestrator.tracking import supervisor as supervisor_module
from orchestrator.tracking.process import Settings
from orchestrator.tracking.supervisor import TrackingProcess
from tests.unit.orchestrator.builders import warm_started
from tests.unit.orchestrator.tracking.journals import AT, life, write_life

# MLflow's own code warns about what it will change; it is not ours to fix.
pytestmark = pytest.mark.filterwarnings("default")

ROOT = Path(__file__).parents[4]

# A leader that starts the tracking process, says its pid, and waits for its end.
LEADER = """
import sys, time
from pathlib import Path
from orchestrator.tracking.supervisor import TrackingProcess
store, folder = sys.argv[1:]
tracking = TrackingProcess(store, "memory", "", Path(folder), Path(folder) / "t.log")
tracking.start()
print(tracking.pid, flush=True)
time.sleep(600)
"""


def wait_for(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether the process runs; one that ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture
def store(store_url: str) -> Iterator[DatabaseStore]:
    made = DatabaseStore(store_url)
    yield made
    made.close()


@pytest.fixture
def mlflow_uri(tmp_path: Path, empty_mlflow: Path) -> str:
    copy = tmp_path / "mlflow.db"
    copy.write_bytes(empty_mlflow.read_bytes())
    return f"sqlite:///{copy}"


@pytest.fixture(scope="module")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: creating one takes seconds, copying it none."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def _restart_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "FIRST_BACKOFF_S", 0.1)
    monkeypatch.setattr(supervisor_module, "MAX_BACKOFF_S", 0.2)


@pytest.fixture
def light(store_url: str, tmp_path: Path) -> Iterator[TrackingProcess]:
    """Without MLflow, whose import takes seconds: what it was told ends with it, the cursor shows how far it came."""
    made = TrackingProcess(store_url, "memory", "", tmp_path / "artifacts", tmp_path / "logs" / "tracking.log")
    yield made
    made.close(0.0)


@pytest.fixture
def tracking(store_url: str, mlflow_uri: str, tmp_path: Path) -> Iterator[TrackingProcess]:
    made = TrackingProcess(store_url, "mlflow", mlflow_uri, tmp_path / "artifacts", tmp_path / "logs" / "tracking.log")
    yield made
    made.close(0.0)


def histories(uri: str) -> dict[str, list[tuple[int, float, int]]]:
    """The loss of each trial as MLflow has it, by trial id. Fails if a trial has two runs."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    (experiment,) = (e for e in client.search_experiments() if e.name == "test/study-1")
    found = client.search_runs([experiment.experiment_id], "tags.`orchestrator.kind` = 'trial'")
    owners = [run.data.tags["trial_id"] for run in found]
    assert len(owners) == len(set(owners)), "a trial has two runs"
    assert {run.info.status for run in found} == {"FINISHED"}
    return {
        run.data.tags["trial_id"]: [
            (m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, "train/loss")
        ]
        for run in found
    }


def expected(trials: int, points: int) -> dict[str, list[tuple[int, float, int]]]:
    history = [(step, 1.0 / (step + 1), int(1000 * (AT + step))) for step in range(points)]
    return {trial.trial_id: history for trial in warm_started(trials)}


def test_settings_read_back_from_their_line() -> None:
    settings = Settings(store_url="postgresql://me:pw@host/db", tracker="mlflow", uri="http://host", artifacts="/a")
    assert Settings.from_line(settings.to_line()) == settings


def test_closing_waits_until_the_journal_is_forwarded(
    store: DatabaseStore, tracking: TrackingProcess, mlflow_uri: str
) -> None:
    write_life(store, trials=2, points=5)
    tracking.start()
    assert tracking.close(60.0)
    assert store.forwarded() == store.journal_end()
    assert histories(mlflow_uri) == expected(2, 5)
    assert tracking.close(60.0)


def kill(tracking: TrackingProcess) -> int:
    """Kill it; the number that it had."""
    pid = tracking.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


def wait_for_another_than(pid: int, tracking: TrackingProcess) -> None:
    def started_again() -> bool:
        tracking.check_alive()
        return tracking.pid not in (None, pid)

    wait_for(started_again)


def test_a_process_that_is_killed_is_started_again_which_is_said_once_a_death(
    store: DatabaseStore, light: TrackingProcess, caplog: pytest.LogCaptureFixture
) -> None:
    light.start()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            wait_for_another_than(kill(light), light)
        write_life(store)
        assert light.close(60.0)
    assert store.forwarded() == store.journal_end()
    assert sum("its process ended (SIGKILL)" in record.message for record in caplog.records) == 2


def test_closing_after_a_death_still_forwards_what_is_left(store: DatabaseStore, light: TrackingProcess) -> None:
    light.start()
    kill(light)
    write_life(store)
    assert light.close(60.0)
    assert store.forwarded() == store.journal_end()


@pytest.mark.slow
def test_whatever_is_killed_in_the_middle_everything_arrives_once(
    store: DatabaseStore, tracking: TrackingProcess, mlflow_uri: str
) -> None:
    records = list(life(warm_started(4), 900))
    tracking.start()
    for start in range(0, len(records), 1300):
        before = store.forwarded()
        store.apply(records[start : start + 1300])
        wait_for(lambda before=before: store.forwarded() > before)
        wait_for_another_than(kill(tracking), tracking)
    assert tracking.close(120.0)
    assert histories(mlflow_uri) == expected(4, 900)


def test_what_the_process_warns_of_is_passed_on(
    store: DatabaseStore, store_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_life(store, trials=1, points=1)
    log = tmp_path / "tracking.log"
    tracking = TrackingProcess(store_url, "mlflow", "http://me:hunter2@127.0.0.1:9", tmp_path, log)
    with caplog.at_level(logging.WARNING):
        tracking.start()
        wait_for(lambda: (tracking.check_alive(), bool(caplog.records))[1])
        assert not tracking.close(0.5)
    assert caplog.records[0].message.startswith("tracking: ")
    assert "records wait until it answers" in caplog.records[0].message
    assert "they wait in the store for the next run" in caplog.records[-1].message
    assert store.forwarded() == 0
    assert "hunter2" not in log.read_text()


def test_no_address_is_on_the_command_line(light: TrackingProcess, store: DatabaseStore) -> None:
    light.start()
    path = Path(f"/proc/{light.pid}/cmdline")
    wait_for(lambda: b"tracking.process" in path.read_bytes())
    command = path.read_bytes().split(b"\0")
    assert command[1:-1] == [b"-m", b"orchestrator.tracking.process"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_process_ends_when_its_leader_is_killed(
    store: DatabaseStore, store_url: str, tmp_path: Path, how: signal.Signals
) -> None:
    write_life(store)
    leader = subprocess.Popen(
        [sys.executable, "-c", LEADER, store_url, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert leader.stdout is not None
    with leader.stdout:
        pid = int(leader.stdout.readline())
        wait_for(lambda: store.forwarded() > 0)
        leader.send_signal(how)
        leader.wait(30)
        wait_for(lambda: not alive(pid), process_module.ORPHAN_GRACE_S + 5.0)


@pytest.mark.slow
def test_two_processes_do_not_forward_at_once(
    store: DatabaseStore, store_url: str, mlflow_uri: str, tmp_path: Path, tracking: TrackingProcess
) -> None:
    store.apply(list(life(warm_started(4), 200)))
    second = TrackingProcess(store_url, "mlflow", mlflow_uri, tmp_path / "artifacts", tmp_path / "second.log")
    tracking.start()
    second.start()
    assert tracking.close(120.0)
    assert second.close(120.0)
    assert histories(mlflow_uri) == expected(4, 200)


def test_a_signal_to_the_terminal_does_not_reach_it(light: TrackingProcess, store: DatabaseStore) -> None:
    light.start()
    assert light.pid is not None
    assert os.getsid(light.pid) == light.pid != os.getsid(0)
