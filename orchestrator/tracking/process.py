"""The tracking process: forwards the journal to a tracker, beside the leader and at a lower priority.

Started by `supervisor.TrackingProcess`, as `python -m orchestrator.tracking.process`. The first line on standard input
is its settings: an address may hold a password, and a command line is for everyone on the machine to see. A further
line `drain` asks it to end once the journal is forwarded. The end of the input without that means that the leader died:
it ends too, within `ORPHAN_GRACE_S`, and the next leader's goes on from the cursor.
"""

import json
import logging
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Final

from filelock import FileLock, Timeout

from orchestrator.store.database import DatabaseStore
from orchestrator.tracking import build_tracker
from orchestrator.tracking.forwarder import Forwarder

logger = logging.getLogger(__name__)

DRAIN: Final = b"drain\n"
EXIT_UNFINISHED: Final = 3
"""Exit code of a process that was stopped before it had forwarded everything."""

LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"

POLL_S: Final = 1.0
"""How long points wait for company [s]: each write costs MLflow 10 ms, however many points are in it."""

ORPHAN_GRACE_S: Final = 5.0
_NICENESS: Final = 5
_LOCK_FILE: Final = "tracking.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What to forward where. `artifacts` is a folder, see `build_tracker`."""

    store_url: str
    tracker: str
    uri: str
    artifacts: str

    def to_line(self) -> bytes:
        """One line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "Settings":
        """Raises ValueError or TypeError if the line is none of `to_line`."""
        return cls(**json.loads(line))


class _Requests:
    """What the leader asked for, and whether it is still there. `woken` is set by either."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.drain = threading.Event()
        self.woken = threading.Event()

    def follow(self, source: BinaryIO) -> None:
        """Read `source` to its end; then give the forwarder a moment to finish its call."""
        if source.readline() == DRAIN:
            self.drain.set()
            self.woken.set()
            source.readline()
        self.stop.set()
        self.woken.set()
        time.sleep(ORPHAN_GRACE_S)
        # A server that hangs must not hold up the next leader's process; a repeated call does no harm.
        os._exit(EXIT_UNFINISHED)


def main() -> int:
    """Forward until told to end. 0 if all is forwarded."""
    os.nice(_NICENESS)
    logging.basicConfig(level=logging.WARNING, format=LOG_FORMAT)
    # Unbuffered: a thread that waits inside a buffered reader can't be left behind when the interpreter ends.
    with open(0, "rb", buffering=0, closefd=False) as source:
        settings = Settings.from_line(source.readline())
        requests = _Requests()
        threading.Thread(target=requests.follow, args=(source,), name="leader", daemon=True).start()
        return _run(settings, requests)


def _run(settings: Settings, requests: _Requests) -> int:
    lock = FileLock(Path(settings.artifacts) / _LOCK_FILE)
    if not _acquire(lock, requests):
        return EXIT_UNFINISHED
    store = DatabaseStore(settings.store_url)
    try:
        tracker = build_tracker(settings.tracker, uri=settings.uri, artifacts=Path(settings.artifacts))
        return _forward(Forwarder(store, tracker, stop=requests.stop), requests)
    finally:
        store.close()
        lock.release()


def _acquire(lock: FileLock, requests: _Requests) -> bool:
    """Two forwarders at once would each make the runs: a killed leader's may still be about to end."""
    Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    while not requests.stop.is_set():
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            continue
        return True
    return False


def _forward(forwarder: Forwarder, requests: _Requests) -> int:
    while not requests.stop.is_set():
        # Asked before reading: whatever was written before the request is read after it.
        draining = requests.drain.is_set()
        if forwarder.forward_once() == 0 and not requests.stop.is_set():
            if draining:
                return 0
            requests.woken.wait(POLL_S)
            requests.woken.clear()
    return EXIT_UNFINISHED


if __name__ == "__main__":
    sys.exit(main())
