"""`serve`: leads a store's queue for as long as it is wanted, or stands by while another process does."""

import contextlib
import gc
import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from types import FrameType
from typing import Any

from orchestrator.clock import SystemClock
from orchestrator.home import Home
from orchestrator.loop import SchedulingLoop
from orchestrator.ports import Cluster, ClusterUnavailable, LeaseLost, Store, StoreUnavailable
from orchestrator.redaction import redacted
from orchestrator.schema import Lease
from orchestrator.service.cache_keeper import making_room
from orchestrator.service.devices_lock import machine_devices
from orchestrator.service.leadership import Candidate, Heart, last_sign_of_life
from orchestrator.service.reports import finish_study
from orchestrator.service.rooms import build_cluster, build_policies, store_id
from orchestrator.service.sharing_file import SharingFile
from orchestrator.state import SchedulerState
from orchestrator.tracking.supervisor import TrackingProcess

logger = logging.getLogger(__name__)

CYCLE_S = 0.25
STANDBY_S = 0.5
DEVICES_TIMEOUT_S = 120.0
RESTART_S, MAX_RESTART_S = 1.0, 30.0
TRACKER_TIMEOUT_S = 60.0
GC_THRESHOLDS = (50_000, 50, 50)

Observe = Callable[[SchedulerState | None], None]


class Interrupts:
    """SIGINT and SIGTERM asked for politely: `requested` after the first one, KeyboardInterrupt at the second."""

    def __init__(self) -> None:
        self.requested = False

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """For the main thread. Outside of it a signal interrupts at once, as it does by default."""
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Service:
    """Schedules a store's queue with the given service config (see `rooms.service_config`).

    `say` takes lines for the person who started it.
    """

    def __init__(self, config: Mapping[str, Any], home: Home, store: Store, say: Callable[[str], None]) -> None:
        self._config = config
        self._home = home
        self._store = store
        self._say = say
        self._clock = SystemClock()
        self._interrupts = Interrupts()
        # Whoever starts a service wants to hear at once that it can't have its devices. One that served or stood by
        # already is what others rely on, and keeps trying.
        self._patient = False

    def serve(self, until: Callable[[], bool], observe: Observe, on_interrupt: Callable[[], None]) -> None:
        """Returns once `until` says so. `observe` is called in every cycle, with the machine while this process leads
        and with None while it stands by. The first Ctrl-C or SIGTERM calls `on_interrupt`, which may change what
        `until` says; the second one raises KeyboardInterrupt.

        Raises ClusterUnavailable if the devices can't be had, unless it has served or stood by already: then it keeps
        trying.
        """
        # A long queue is a million objects that live for hours; looking through them for garbage took a third of a
        # cycle over ten thousand trials.
        gc.set_threshold(*GC_THRESHOLDS)
        candidate = Candidate(self._store, redacted(self._config), self._clock.now)
        standing_by = False
        while not until():
            lease = candidate.take()
            if lease is None:
                if not standing_by and candidate.seen is not None and candidate.seen.holder is not None:
                    leader = candidate.seen.holder
                    self._say(f"process {leader.pid} on {leader.host} serves this store; standing by")
                standing_by = self._patient = True
                observe(None)
                time.sleep(STANDBY_S)
                continue
            standing_by = False
            try:
                before = candidate.seen if candidate.seen is not None else lease
                died_at = last_sign_of_life(before, self._home.pulse_path(before.term))
                self._lead(lease, died_at, until, observe, on_interrupt)
            except LeaseLost as error:
                self._say(f"{error}; letting go")
                observe(None)  # what this process knew last was perhaps never written
            except StoreUnavailable as error:
                # All that was known is in the store, or was decided by nobody: it is read again.
                self._say(f"store: {error}; trying again")
                observe(None)
                time.sleep(STANDBY_S)

    def _lead(
        self,
        lease: Lease,
        died_at: float,
        until: Callable[[], bool],
        observe: Observe,
        on_interrupt: Callable[[], None],
    ) -> None:
        """`died_at`: when the leader before did, its bundles with it."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._release, lease.term)
            heart = stack.enter_context(
                Heart(self._store, lease.term, self._clock.now, self._home.pulse_path(lease.term))
            )
            cluster = build_cluster(self._config["cluster"], self._home, lease.term)
            # One question after the other: a sampler keeps a core busy that others train on.
            searching = ThreadPoolExecutor(max_workers=1, thread_name_prefix="search")
            stack.callback(searching.shutdown, wait=False, cancel_futures=True)
            loop = self._loop(cluster, lease.term, heart, searching)
            self._sharing = SharingFile(self._home)
            # First of all, since the next leader would know of this term's last sign of life only.
            loop.take_over(died_at)
            if not self._config["cluster"].get("address"):
                devices = machine_devices(store_id(self._home), lease.term, self._say, heart.main_loop_is_alive)
                stack.enter_context(devices)
            tracking = stack.enter_context(self._tracking())
            stack.enter_context(making_room(self._config.get("cache", {}), self._home, self._say))
            stack.callback(cluster.close)
            self._say(f"starting the cluster ({self._config['cluster']['name']}), with the training code preloaded ...")
            self._start(cluster, loop, heart, until)
            with self._interrupts.listening():
                self._cycle(loop, cluster, heart, tracking, until, observe, on_interrupt)
                with contextlib.suppress(ClusterUnavailable):  # what ran is gone, and waits again below
                    loop.suspend(float(self._config["cluster"].get("stop_grace_s", 0.0)), "the service ends")
            cluster.close()
            loop.lose_cluster("the service ended")

    def _release(self, term: int) -> None:
        with contextlib.suppress(StoreUnavailable):  # whoever stands by sees that the beat stands still
            self._store.release_lease(term, self._clock.now())

    def _cycle(
        self,
        loop: SchedulingLoop,
        cluster: Cluster,
        heart: Heart,
        tracking: TrackingProcess | None,
        until: Callable[[], bool],
        observe: Observe,
        on_interrupt: Callable[[], None],
    ) -> None:
        interrupted = False
        while not until():
            heart.main_loop_is_alive()
            if self._interrupts.requested and not interrupted:
                interrupted = True
                on_interrupt()
            if tracking is not None:
                tracking.check_alive()
            try:
                loop.cycle(CYCLE_S)
                self._sharing.keep_up(loop.state.interference)
            except ClusterUnavailable as error:
                self._say(f"the cluster is gone ({error}); starting it again")
                loop.lose_cluster(f"the cluster was lost: {error}")
                cluster.close()
                self._start_again(cluster, heart, until)
                if self._interrupts.requested:
                    return
            observe(loop.state)

    def _start(self, cluster: Cluster, loop: SchedulingLoop, heart: Heart, until: Callable[[], bool]) -> None:
        try:
            cluster.check()
            cluster.start()
            loop.wait_for_devices(DEVICES_TIMEOUT_S)
        except ClusterUnavailable as error:
            if not self._patient:
                raise
            self._say(f"the cluster can't be started: {error}")
            cluster.close()
            self._start_again(cluster, heart, until)
        self._patient = True

    def _start_again(self, cluster: Cluster, heart: Heart, until: Callable[[], bool]) -> None:
        backoff_s = RESTART_S
        while not until() and not self._interrupts.requested:
            heart.main_loop_is_alive()
            try:
                cluster.start()
                return
            except ClusterUnavailable as error:
                self._say(f"the cluster can't be started: {error}; trying again in {backoff_s:.0f} s")
                cluster.close()
                time.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, MAX_RESTART_S)

    def _loop(self, cluster: Cluster, term: int, heart: Heart, searching: Executor) -> SchedulingLoop:
        def pause(seconds: float) -> None:
            """While the store is away the loop waits: it is not stuck."""
            heart.main_loop_is_alive()
            time.sleep(seconds)

        return SchedulingLoop(
            cluster=cluster,
            store=self._store,
            clock=self._clock,
            policies=build_policies(self._config),
            max_attempts=self._config["cluster"]["max_attempts"],
            finish=lambda study, trials, ledger, predictions: finish_study(
                self._home, study, trials, ledger, predictions, self._store.completed_stages
            ),
            term=term,
            pause=pause,
            searching=searching,
        )

    @contextlib.contextmanager
    def _tracking(self) -> Iterator[TrackingProcess | None]:
        """The process that forwards the journal to the tracker; on leaving it has had time to forward all of it."""
        tracking = self._config["tracking"]
        if tracking["name"] == "memory":
            yield None
            return
        process = TrackingProcess(
            store_url=self._home.store_url,
            tracker_name=tracking["name"],
            uri=tracking["uri"] or self._home.mlflow_uri,
            artifacts=self._home.artifacts,
            log_path=self._home.root / "logs" / "tracking.log",
        )
        process.start()
        patience_s = 0.0  # whoever leads next goes on where it was
        try:
            yield process
            patience_s = TRACKER_TIMEOUT_S
        finally:
            process.close(patience_s)
