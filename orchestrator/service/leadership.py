"""Exactly one leader schedules: a lease in the store, kept by signs of life and fenced by its term.

Nobody's clock is compared with anybody else's. Whoever waits looks at the lease's beat, and takes the lease over once
the beat has stood still for `TAKEOVER_S` on its own clock, while the store answered all along. A leader that was paused
and wakes up finds its term over: the store refuses whatever it writes, and it acts on nothing that is not written.
"""

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import psutil

from orchestrator.ports import LeaseLost, Store, StoreUnavailable
from orchestrator.schema import Holder, Lease

logger = logging.getLogger(__name__)

BEAT_S, PULSE_S = 0.25, 0.05
TAKEOVER_S = 5.0
# A beat seen only now says nothing about how long it stood still if nobody looked in between.
LOOK_S = 2.5
# A main loop that hangs for so long leads no more, whatever its heart does.
STUCK_S = 120.0


def this_process() -> Holder:
    """Who would hold the lease."""
    process = psutil.Process()
    return Holder(host=socket.gethostname(), pid=process.pid, started_at=process.create_time())


def is_gone(holder: Holder) -> bool:
    """Whether the process is known to have ended; of another host nobody knows."""
    if holder.host != socket.gethostname():
        return False
    try:
        process = psutil.Process(holder.pid)
        return abs(process.create_time() - holder.started_at) > 1.0 or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Candidate:
    """Waits for the lease. Ask `take` about every second: more rarely than `LOOK_S`, and it trusts nothing it sees."""

    def __init__(
        self,
        store: Store,
        config: Mapping[str, Any],
        now: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._config = config
        self._now = now
        self._monotonic = monotonic
        self._seen: Lease | None = None
        self._seen_at = 0.0
        self._looked_at = 0.0

    def take(self) -> Lease | None:
        """The lease, if it is free, given back, or its holder gave no sign of life; else None."""
        try:
            lease = self._store.lease()
            if not self._is_free(lease):
                return None
            return self._store.take_lease(lease, this_process(), self._config, self._now())
        except StoreUnavailable:
            self._seen = None
            return None

    @property
    def seen(self) -> Lease | None:
        """The lease as it last was when somebody else held it, or nobody: its holder, and its last beat."""
        return self._seen

    def _is_free(self, lease: Lease) -> bool:
        now = self._monotonic()
        looked_at, self._looked_at = self._looked_at, now
        seen, self._seen = self._seen, lease
        if lease.holder is None or is_gone(lease.holder):
            return True
        moved = seen is None or (lease.term, lease.beat) != (seen.term, seen.beat)
        if moved or now - looked_at > LOOK_S:
            self._seen_at = now
        return now - self._seen_at >= TAKEOVER_S


def last_sign_of_life(lease: Lease, pulse: Path) -> float:
    """When the holder of a lease was last alive [s since the epoch]: its last beat, or its pulse where that is later
    and can be seen here. The file is removed: its term is over."""
    try:
        seen_at = pulse.stat().st_mtime
    except OSError:
        return lease.beat_at
    pulse.unlink(missing_ok=True)
    return max(lease.beat_at, seen_at)


class Heart:
    """Beats for a term, from a thread of its own, until it is stopped, the term is over, or the main loop is stuck.

    `pulse` is a file that it touches between the beats, every `PULSE_S`: a successor that can see it knows more exactly
    when the term ended.
    """

    def __init__(self, store: Store, term: int, now: Callable[[], float], pulse: Path) -> None:
        self._store = store
        self._pulse = pulse
        self._term = term
        self._now = now
        self._stopped = threading.Event()
        self._lost = threading.Event()
        self._alive_at = time.monotonic()
        self._thread = threading.Thread(target=self._beat, name="lease-heart", daemon=True)

    def __enter__(self) -> Self:
        with contextlib.suppress(OSError):  # a full disk: then the beat alone tells
            self._pulse.touch()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._pulse.unlink(missing_ok=True)

    def main_loop_is_alive(self) -> None:
        """To be called in every cycle. Raises LeaseLost once another process leads."""
        self._alive_at = time.monotonic()
        if self._lost.is_set():
            raise LeaseLost(f"term {self._term} is over: another process leads")

    def _beat(self) -> None:
        beat_due_at, stuck = time.monotonic(), False
        while not self._stopped.wait(PULSE_S):
            with contextlib.suppress(OSError):  # a successor removes it; the lease has the last word
                os.utime(self._pulse)
            if time.monotonic() < beat_due_at:
                continue
            beat_due_at = time.monotonic() + BEAT_S
            if time.monotonic() - self._alive_at > STUCK_S:
                if not stuck:
                    logger.error("the scheduling loop has been stuck for %.0f s; another process may lead", STUCK_S)
                stuck = True
                continue
            stuck = False
            try:
                self._store.renew_lease(self._term, self._now())
            except StoreUnavailable:
                continue  # nobody else can take the lease either; the loop says that it waits
            except LeaseLost:
                self._lost.set()
                return


def kill_tree(pid: int, started_at: float) -> None:
    """SIGKILL a process of this machine and all that came of it, if it still is the one that started then."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if abs(process.create_time() - started_at) > 1.0 or pid == os.getpid():
            return
        family = [*process.children(recursive=True), process]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=5.0)
