"""One process at a time has a machine's devices; a successor takes them from a leader whose term is over."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.service.devices_lock import machine_devices

HOLD = """
import sys, time
from pathlib import Path
from orchestrator.service import devices_lock
devices_lock.lock_path = lambda: Path(sys.argv[1])
with devices_lock.machine_devices(sys.argv[2], int(sys.argv[3]), print, lambda: None):
    print("held", flush=True)
    time.sleep(60)
"""


class GaveUp(Exception):
    """The test has waited long enough."""


@pytest.fixture(autouse=True)
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "devices.lock"
    monkeypatch.setattr("orchestrator.service.devices_lock.lock_path", lambda: path)
    monkeypatch.setattr("orchestrator.service.devices_lock.POLL_S", 0.01)
    return path


@pytest.fixture
def holder(lock: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, the leader of term 3 of store `ours`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(lock), "ours", "3"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    if psutil.pid_exists(process.pid):
        process.kill()
    process.communicate()


def wait_a_little() -> object:
    """Gives up after 0.3 s."""
    deadline = time.monotonic() + 0.3

    def still_wanted() -> None:
        if time.monotonic() > deadline:
            raise GaveUp

    return still_wanted


def test_devices_that_nobody_holds_are_taken_at_once() -> None:
    with machine_devices("ours", 1, pytest.fail, lambda: None):
        pass


def test_another_stores_run_is_waited_for_and_left_alone(holder: subprocess.Popen[str]) -> None:
    said: list[str] = []
    with pytest.raises(GaveUp), machine_devices("theirs", 9, said.append, wait_a_little()):  # type: ignore[arg-type]
        pass
    assert said == ["another run holds this machine's devices; waiting for it to end (Ctrl-C gives up)"]
    assert holder.poll() is None


def test_a_leader_of_the_same_store_whose_term_is_over_is_ended(holder: subprocess.Popen[str]) -> None:
    said: list[str] = []
    with machine_devices("ours", 4, said.append, lambda: None):
        assert not psutil.pid_exists(holder.pid)
    assert said == [f"the leader of term 3 (process {holder.pid}) still holds the devices of this machine; ending it"]


def test_a_later_leader_of_the_same_store_is_left_alone(holder: subprocess.Popen[str]) -> None:
    with pytest.raises(GaveUp), machine_devices("ours", 3, lambda _: None, wait_a_little()):  # type: ignore[arg-type]
        pass
    assert holder.poll() is None


def test_devices_of_a_process_that_was_killed_are_free(holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    with machine_devices("theirs", 1, pytest.fail, lambda: None):
        pass
