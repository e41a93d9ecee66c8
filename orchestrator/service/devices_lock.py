"""Only one process at a time takes a machine's devices for itself: two would each believe to have all of them.

The lock's file says who has it and for which term of which store. A leader of the same store whose term is over, and
that has not let go (it was paused, it hangs), is killed by its successor: that is what makes the takeover safe.
"""

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from orchestrator.service.leadership import kill_tree, this_process

POLL_S = 0.5


def lock_path() -> Path:
    """One per user and machine."""
    return Path(tempfile.gettempdir()) / f"orchestrator-devices-{os.getuid()}.lock"


@contextlib.contextmanager
def machine_devices(
    store_id: str, term: int, say: Callable[[str], None], still_wanted: Callable[[], None]
) -> Iterator[None]:
    """Hold this machine's devices for a term of a store. `still_wanted` is called while waiting; it may raise."""
    path = lock_path()
    record = path.with_suffix(".json")
    lock = FileLock(path)
    said = False
    while True:
        try:
            lock.acquire(timeout=0)
            break
        except Timeout:
            if _fenced_holder_killed(record, store_id, term, say):
                continue
            if not said:
                say("another run holds this machine's devices; waiting for it to end (Ctrl-C gives up)")
                said = True
            time.sleep(POLL_S)
            still_wanted()
    with lock:
        me = this_process()
        holder = {"store": store_id, "term": term, "pid": me.pid, "started_at": me.started_at}
        _write(record, json.dumps(holder))
        yield


def _fenced_holder_killed(record: Path, store_id: str, term: int, say: Callable[[str], None]) -> bool:
    """Whether the lock's holder was an earlier leader of the same store, and has now been killed."""
    try:
        holder = json.loads(record.read_text())
        fenced = holder["store"] == store_id and int(holder["term"]) < term
        pid, started_at = int(holder["pid"]), float(holder["started_at"])
    except (OSError, ValueError, KeyError, TypeError):
        return False  # it has the lock and has not written who it is yet
    if not fenced or pid == os.getpid():
        return False
    say(f"the leader of term {holder['term']} (process {pid}) still holds the devices of this machine; ending it")
    kill_tree(pid, started_at)
    return True


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
