"""The agent of one node: runs bundles on the node's devices through a forkserver, and says what became of them.

One thread owns all state; the public methods hand it commands and may be called from any thread. Every launched
bundle ends in exactly one terminal event, sent after all of its processes ended and, for StageCompleted, after its
output was committed.
"""

import contextlib
import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cluster.agent_config import AgentConfig
from cluster.assignments import Seat, seats
from cluster.bundle import Bundle, RankProcess
from cluster.forkserver_client import ForkserverConnection, ForkserverProcess, end_group
from cluster.memory import MemoryWatch
from cluster.outputs import Artifacts
from cluster.wire import assignment_to_wire
from cluster.worker import log_tail
from cluster.worker_client import WorkerConnection
from orchestrator.events import (
    BundleStopped,
    Event,
    Launch,
    NodeLost,
    StageRaised,
    WorkerLost,
)
from orchestrator.ports import ClusterUnavailable

_LOG_TAIL_LINES = 5


@dataclass(slots=True)
class _Running:
    """A bundle and what the agent keeps about it."""

    launch: Launch
    seats: tuple[Seat, ...]
    bundle: Bundle
    log: Path
    stop_deadline: float | None = None


@dataclass(slots=True)
class _Line:
    """The connection of one process."""

    connection: WorkerConnection
    running: _Running
    rank: int


class NodeAgent:
    """Runs bundles on one node. `start`, then `launch`/`stop`/`poll` at will, then `close`."""

    def __init__(self, config: AgentConfig, forkserver_address: str = "") -> None:
        """`forkserver_address`: a forkserver on this machine that someone else started for this agent ("": start
        one). Should it be dead or die, the agent starts its own."""
        self._config = config
        self._artifacts = Artifacts(config.artifacts)
        self._address = forkserver_address
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wakeup, self._wakeup_write = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._run, name="node-agent", daemon=True)
        self._closing = False
        self._process: ForkserverProcess | None = None
        self._server: ForkserverConnection | None = None
        self._settled = threading.Event()
        self._failure = ""
        self._waiting: list[_Running] = []
        self._running: dict[str, _Running] = {}
        self._lines: dict[str, _Line] = {}
        self._memory = MemoryWatch(config.memory_sample_s)

    # --- called from any thread ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the forkserver; `NodeJoined` follows once it has imported what it preloads."""
        self._wakeup.setblocking(False)
        self._wakeup_write.setblocking(False)
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._wake)
        self._connect_forkserver()
        self._thread.start()

    def wait_ready(self, timeout_s: float) -> None:
        """Until bundles can be launched at once. Raises ClusterUnavailable if that fails or takes longer."""
        if not self._settled.wait(timeout_s):
            raise ClusterUnavailable(
                f"node {self._config.node_id}: importing {', '.join(self._config.preload)} took over {timeout_s:g} s"
            )
        if self._failure:
            raise ClusterUnavailable(f"node {self._config.node_id}: {self._failure}")

    def launch(self, launch: Launch) -> None:
        """Start a bundle whose devices are this node's. Its id must be fresh."""
        self._submit(partial(self._launch, launch))

    def stop(self, bundle_id: str, reason: str) -> None:
        """Ask a bundle to end at its next step boundary; unknown and ended bundles are ignored."""
        self._submit(partial(self._stop, bundle_id, reason))

    def poll(self, timeout_s: float) -> list[Event]:
        """The events since the last call; waits for the first at most `timeout_s`. `NodeLost` is the last one of a
        node: afterwards each launch is lost."""
        try:
            events = [self._events.get(timeout=timeout_s) if timeout_s > 0 else self._events.get_nowait()]
        except queue.Empty:
            return []
        with contextlib.suppress(queue.Empty):
            while True:
                events.append(self._events.get_nowait())
        return events

    def close(self) -> None:
        """Kill every bundle and the forkserver, and wait for it. Safe to call twice."""
        self._submit(self._shut_down)
        if self._thread.ident is None:  # `start` failed, or was never called
            self._release()
        elif self._thread.is_alive():
            self._thread.join()
        if self._process is not None:
            self._process.kill()
            self._process = None

    def _submit(self, command: Callable[[], None]) -> None:
        self._commands.put(command)
        with contextlib.suppress(BlockingIOError, OSError):  # full: a wake-up is pending anyway; closed: no-one to wake
            self._wakeup_write.send(b"\0")

    # --- the agent's thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing:
                for key, _ in self._selector.select(self._time_to_next_check()):
                    key.data()
                self._enforce_stop_deadlines()
                self._watch_memory()
        except Exception as error:  # a fault of the agent itself must not leave the driver waiting for its events
            self._give_up(f"its agent failed: {type(error).__name__}: {error}")
            raise
        finally:
            self._release()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wakeup.recv(4096)
        while not self._closing:
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                return
            command()

    def _shut_down(self) -> None:
        self._closing = True

    def _release(self) -> None:
        if self._server is not None:
            self._server.close()
        for line in self._lines.values():
            line.connection.await_end()
            line.connection.close()
        for running in [*self._running.values(), *self._waiting]:
            self._artifacts.discard(running.launch.bundle_id)
        self._selector.close()
        self._wakeup.close()
        self._wakeup_write.close()
        self._failure = self._failure or "the agent was closed"
        self._settled.set()

    # forkserver

    def _connect_forkserver(self) -> None:
        address, self._address = self._address, ""  # after the one that is there for us, each one is ours
        try:
            self._server = ForkserverConnection(address)
        except OSError:  # none was given, or it is gone (with an earlier life of this agent)
            self._process = ForkserverProcess(self._config.forkserver())
            self._server = ForkserverConnection(self._process.address)
        self._selector.register(self._server, selectors.EVENT_READ, self._read_forkserver)

    def _read_forkserver(self) -> None:
        assert self._server is not None
        messages = self._server.read()
        if messages is None:
            self._forkserver_died()
            return
        for message in messages:
            if message["kind"] == "ready":
                self._forkserver_ready(message["pid"])
            elif message["kind"] == "failed":
                self._failure = f"its forkserver can't start: {message['error']}"
            elif message["process"] in self._lines:
                line = self._lines[message["process"]]
                if message["kind"] == "spawned":
                    line.running.bundle.spawned(line.rank, message["pid"])
                    if line.running.bundle.doomed:
                        self._kill_rest(line.running)
                else:
                    self._process_exited(message["process"], message["status"], message["killed"])

    def _forkserver_ready(self, pid: int) -> None:
        assert self._server is not None
        self._server.pid = pid
        if self._process is not None:
            self._process.forget_address()
        if not self._settled.is_set():
            self._settled.set()
            self._events.put(self._config.joined(time.time()))
        waiting, self._waiting = self._waiting, []
        for running in waiting:
            self._spawn(running)

    def _forkserver_died(self) -> None:
        assert self._server is not None
        never_ready = self._server.pid is None
        self._selector.unregister(self._server)
        self._server.close()
        self._server = None
        for process, line in list(self._lines.items()):
            # The kernel kills the children with their parent, but not what they have started, which is in their groups.
            # The end of their streams says that it has happened.
            end_group(line.running.bundle.ranks[line.rank].pid)
            line.connection.expect_end()
            self._process_exited(process, status=None, killed=False)
        if self._process is not None:
            self._process.kill()
        if never_ready:
            self._give_up(self._failure or "its forkserver died while it was importing")
            return
        self._connect_forkserver()

    def _give_up(self, reason: str) -> None:
        """This node can run nothing any more."""
        self._failure = self._failure or reason
        for running in [*self._running.values(), *self._waiting]:
            self._events.put(_lost(running.launch, f"node lost: {reason}"))
            self._artifacts.discard(running.launch.bundle_id)
        self._running, self._waiting = {}, []
        self._events.put(NodeLost(at=time.time(), node_id=self._config.node_id, reason=self._failure))
        self._settled.set()

    # bundles

    def _launch(self, launch: Launch) -> None:
        if self._failure:
            self._events.put(_lost(launch, f"node {self._config.node_id} can run nothing: {self._failure}"))
            return
        bundle = Bundle(launch.bundle_id, [RankProcess(rank) for rank in range(len(launch.devices))])
        try:
            places = seats(launch, self._artifacts, self._config.cores, len(self._config.devices))
            running = _Running(launch, places, bundle, self._config.logs / f"{launch.bundle_id}.log")
        except (ValueError, IndexError) as error:  # a key that can't name a folder, a device of another node
            self._events.put(_raised(launch, error))
            return
        if self._server is None or self._server.pid is None:
            self._waiting.append(running)
        else:
            self._spawn(running)

    def _spawn(self, running: _Running) -> None:
        assert self._server is not None
        launch = running.launch
        self._running[launch.bundle_id] = running
        try:
            self._artifacts.prepare(launch.bundle_id, launch.study_id, launch.stage.key)
        except OSError as error:
            self._finish(running, _lost(launch, str(error)))
            return
        for rank, seat in enumerate(running.seats):
            ours, theirs = socket.socketpair()
            request = {
                "assignment": assignment_to_wire(seat.assignment),
                "artifacts": str(self._artifacts.root),
                "log": str(running.log),
                "cores": seat.cores,
                "environment": seat.environment,
            }
            process = f"{launch.bundle_id}/{rank}"
            with theirs:
                try:
                    self._server.spawn(process, request, theirs)
                except TypeError as error:  # a stage config that is no plain data; the same for every rank
                    ours.close()
                    self._finish(running, _raised(launch, error))
                    return
            self._lines[process] = _Line(WorkerConnection(ours), running, rank)
            self._selector.register(ours, selectors.EVENT_READ, partial(self._read_worker, process))

    def _read_worker(self, process: str) -> None:
        line = self._lines.get(process)
        if line is None:  # its exit was handled in this very round
            return
        if not self._drain(line):
            # The exit, which the forkserver reports, is what counts.
            self._selector.unregister(line.connection)
        if line.running.bundle.doomed:
            self._kill_rest(line.running)

    def _drain(self, line: _Line) -> bool:
        """Take in all that a process has said so far; False at the end of its stream."""
        messages, more = line.connection.read()
        for message in messages:
            for event in line.running.bundle.message(line.rank, message):
                self._events.put(event)
        return more

    def _process_exited(self, process: str, status: int | None, killed: bool) -> None:
        line = self._lines.pop(process)
        self._drain(line)
        with contextlib.suppress(KeyError):
            self._selector.unregister(line.connection)
        line.connection.close()
        running = line.running
        if status is None:
            running.bundle.vanished(line.rank, "its forkserver died")
        else:
            running.bundle.exited(line.rank, status, killed)
            if not killed and running.bundle.excess is None:
                running.bundle.excess = self._memory.killed_for_it(running.launch, status)
        verdict = running.bundle.verdict(time.time(), log_tail(running.log, _LOG_TAIL_LINES))
        if verdict is not None:
            self._finish(running, verdict)
        elif running.bundle.doomed:
            self._kill_rest(running)

    def _finish(self, running: _Running, event: Event) -> None:
        launch = running.launch
        self._running.pop(launch.bundle_id)
        self._memory.forget(launch.bundle_id)
        self._artifacts.discard(launch.bundle_id)
        self._events.put(event)

    def _kill_rest(self, running: _Running) -> None:
        for process in running.bundle.running():
            if process.pid is not None and self._server is not None:
                self._server.kill(process.pid)

    def _stop(self, bundle_id: str, reason: str) -> None:
        if any(running.launch.bundle_id == bundle_id for running in self._waiting):
            self._waiting = [running for running in self._waiting if running.launch.bundle_id != bundle_id]
            self._events.put(BundleStopped(at=time.time(), bundle_id=bundle_id))
            return
        running = self._running.get(bundle_id)
        if running is None or running.bundle.stop_reason is not None:
            return
        running.bundle.stop_reason = reason
        running.stop_deadline = time.monotonic() + self._config.stop_grace_s
        for rank in range(len(running.seats)):
            line = self._lines.get(f"{running.launch.bundle_id}/{rank}")
            if line is not None:
                line.connection.request_stop()

    def _enforce_stop_deadlines(self) -> None:
        now = time.monotonic()
        for running in self._running.values():
            if running.stop_deadline is not None and now >= running.stop_deadline:
                running.stop_deadline = None
                self._kill_rest(running)

    def _watch_memory(self) -> None:
        for running in self._memory.due(self._running.values(), time.monotonic()):
            pids = [process.pid for process in running.bundle.running() if process.pid is not None]
            excess = self._memory.excess(running.launch, pids)
            if excess is not None and running.bundle.excess is None:
                running.bundle.excess = excess
                self._kill_rest(running)

    def _time_to_next_check(self) -> float | None:
        """Seconds until a deadline or a memory sample is due; None if only messages matter."""
        if not self._running:
            return None
        deadlines = (r.stop_deadline for r in self._running.values() if r.stop_deadline is not None)
        return max(0.0, min((self._memory.next_sample, *deadlines)) - time.monotonic())


def _lost(launch: Launch, reason: str) -> WorkerLost:
    return WorkerLost(at=time.time(), bundle_id=launch.bundle_id, reason=reason)


def _raised(launch: Launch, error: Exception) -> StageRaised:
    return StageRaised(at=time.time(), bundle_id=launch.bundle_id, error=str(error))
