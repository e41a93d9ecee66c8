"""A home with its service as processes, for tests."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.schema import Trial, TrialState
from orchestrator.store.database import DatabaseStore
from tests.faults.harness import Plan, Service
from tests.faults.payload import SAVE_EVERY

STEPS = 200


class Site:
    """A home with its service, its store, and the command line."""

    def __init__(self, home: Path, store_path: Path | None = None, tracking: str = "memory") -> None:
        """`store_path`: where the store lies, by default in the home."""
        self.home = home
        self.store_url = f"sqlite:///{store_path or home / 'store.db'}"
        self.service = Service(home=home, cluster="node", tracking=tracking, store_url=self.store_url)
        self._store: DatabaseStore | None = None

    @property
    def store(self) -> DatabaseStore:
        if self._store is None:
            self._store = DatabaseStore(self.store_url)
        return self._store

    def submit(self, trials: int = 2, steps: int = STEPS) -> str:
        return self.service.submit(Plan(kills=0, trials=trials, steps=steps))

    def command(self, *arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            self.service.command(*arguments), env=self.service.environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def leader(self) -> subprocess.Popen[bytes]:
        """The process that leads, once one does and has devices."""
        self.wait(lambda: self.store.lease().holder is not None and bool(self.store.devices()))
        holder = self.store.lease().holder
        assert holder is not None
        return next(process for process in self.service.processes if process.pid == holder.pid)

    def trials(self) -> list[Trial]:
        return self.store.trials(self.store.studies()[-1].study_id)

    def wait(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> float:
        """How long it took [s]."""
        started = time.monotonic()
        while not condition():
            assert time.monotonic() < started + timeout_s, "timed out"
            time.sleep(0.05)
        return time.monotonic() - started

    def wait_until_running(self, *numbers: int) -> None:
        """Until these trials are in their last stages, and have checkpoints of them."""

        def running(trial: Trial) -> bool:
            last = trial.stage_index == len(trial.variant.stages) - 1
            return trial.state is TrialState.RUNNING and last and trial.progress * STEPS > SAVE_EVERY

        self.wait(lambda: all(running(self.trials()[number]) for number in numbers))

    def wait_until_over(self) -> None:
        self.wait(lambda: all(trial.state.terminal for trial in self.trials()))

    def said(self) -> str:
        """What the services wrote."""
        return (self.home / "serve.log").read_text()

    def close(self) -> None:
        """End the services."""
        self.service.stop()
        if self._store is not None:
            self._store.close()
