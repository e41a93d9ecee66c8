"""Keeps the tracking process alive while the leader lives, and lets it finish when the leader ends."""

import contextlib
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from orchestrator.tracking.process import DRAIN, Settings

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S: Final = 0.5
MAX_BACKOFF_S: Final = 30.0

HEALTHY_S: Final = 60.0
"""A process that lived this long [s] had come up; the next one is started after the first pause again."""

_WARNING_MARK: Final = " WARNING orchestrator.tracking."


class TrackingProcess:
    """One tracking process at a time, started again when it dies. Its output goes to `log_path`.

    It ends with this process, however that ends, since its standard input does; Ctrl-C in the terminal doesn't reach
    it. Not thread-safe.
    """

    def __init__(self, store_url: str, tracker_name: str, uri: str, artifacts: Path, log_path: Path) -> None:
        self._settings = Settings(
            store_url=store_url, tracker=tracker_name, uri=uri, artifacts=str(artifacts.absolute())
        )
        self._log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None
        self._log_read: int | None = None
        self._started_at = 0.0
        self._backoff_s = FIRST_BACKOFF_S
        self._restart_at: float | None = None

    @property
    def pid(self) -> int | None:
        """Of the process that runs now, if one does."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it; nothing if it runs. Returns before it is up."""
        if self._process is not None:
            return
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        with self._log_path.open("ab") as log:
            if self._log_read is None:
                self._log_read = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.tracking.process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        self._started_at, self._restart_at = time.monotonic(), None
        self._send(self._settings.to_line())

    def check_alive(self) -> None:
        """Pass its warnings on; if it died, say so and start it again, after growing pauses. Returns at once."""
        self._pass_warnings_on()
        if self._process is not None and self._process.poll() is not None:
            self._bury(self._process)
        if self._restart_at is not None and time.monotonic() >= self._restart_at:
            try:
                self.start()
            # A full disk, too many processes: no reason for the leader to end.
            except OSError as error:
                self._start_later(f"can't be started ({error})")

    def close(self, timeout_s: float) -> bool:
        """Let it forward what is in the journal and end it. False if that took more than `timeout_s` [s]: the rest
        stays in the journal, for the next leader's. Safe to repeat."""
        if self._process is None and self._restart_at is None:
            return True
        deadline = time.monotonic() + timeout_s
        # One that dies meanwhile is started once more: a person waits for the numbers, and killing is rare.
        finished = self._drain(deadline) or (time.monotonic() < deadline and self._drain(deadline))
        self._restart_at = None
        self._pass_warnings_on()
        if not finished:
            logger.warning(
                "tracking: not all records were forwarded within %g s; they wait in the store for the next run",
                timeout_s,
            )
        return finished

    def _drain(self, deadline: float) -> bool:
        """Ask it to finish and wait, at most until `deadline` (by the monotonic clock); it is gone then."""
        self.start()
        self._send(DRAIN)
        assert self._process is not None
        process, self._process = self._process, None
        try:
            finished = process.wait(max(0.0, deadline - time.monotonic())) == 0
        except subprocess.TimeoutExpired:
            finished = False
            process.kill()
            process.wait()
        _close_input(process)
        return finished

    def _bury(self, process: subprocess.Popen[bytes]) -> None:
        self._process = None
        _close_input(process)
        if time.monotonic() - self._started_at >= HEALTHY_S:
            self._backoff_s = FIRST_BACKOFF_S
        self._start_later(f"ended ({_cause(process.returncode)}), see {self._log_path}")

    def _start_later(self, what: str) -> None:
        logger.warning("tracking: its process %s; it is started again in %g s, nothing is lost", what, self._backoff_s)
        self._restart_at = time.monotonic() + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, MAX_BACKOFF_S)

    def _send(self, line: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        # It may have died meanwhile, which `check_alive` will see.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def _pass_warnings_on(self) -> None:
        """To this process's log, which a person sees; whole lines only, what else libraries print stays in the file."""
        if self._log_read is None or not self._log_path.exists() or self._log_path.stat().st_size <= self._log_read:
            return
        with self._log_path.open("rb") as log:
            log.seek(self._log_read)
            text = log.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._log_read += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            _, mark, rest = line.partition(_WARNING_MARK)
            if mark:
                logger.warning("%s", rest.partition(": ")[2])


def _close_input(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    # What the process never read is lost with it.
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()


def _cause(returncode: int) -> str:
    return f"exit code {returncode}" if returncode >= 0 else signal.Signals(-returncode).name
