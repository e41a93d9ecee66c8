"""The agent of one node: runs bundles on the node's devices through a forkserver, and says what became of them.

One thread owns all state; the public methods hand it commands and may be called from any thread. What becomes of a
launch is said in `cluster.programs`.
"""

import contextlib
import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable
from functools import partial

from cluster.agent_config import AgentConfig
from cluster.forkserver_client import ForkserverConnection, ForkserverProcess
from cluster.programs import Programs, lost
from orchestrator.events import Event, Launch, NodeLost
from orchestrator.ports import ClusterUnavailable


class NodeAgent:
    """Runs bundles on one node. `start`, then `launch`/`stop`/`poll` at will, then `close`."""

    def __init__(self, config: AgentConfig, forkserver_address: str = "") -> None:
        """`forkserver_address`: a forkserver on this machine that someone else started for this agent ("": start
        one). Should it be dead or die, the agent starts its own."""
        self._config = config
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
        self._programs = Programs(config, self._selector, self._events.put)

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
        self._submit(partial(self._programs.stop, bundle_id, reason))

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
                for key, _ in self._selector.select(self._programs.time_to_next_check()):
                    key.data()
                self._programs.check()
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
        self._programs.release()
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
            else:
                self._programs.forkserver_said(message)

    def _forkserver_ready(self, pid: int) -> None:
        assert self._server is not None
        self._server.pid = pid
        if self._process is not None:
            self._process.forget_address()
        if not self._settled.is_set():
            self._settled.set()
            self._events.put(self._config.joined(time.time()))
        self._programs.forkserver_ready(self._server)

    def _forkserver_died(self) -> None:
        assert self._server is not None
        never_ready = self._server.pid is None
        self._selector.unregister(self._server)
        self._server.close()
        self._server = None
        self._programs.forkserver_died()
        if self._process is not None:
            self._process.kill()
        if never_ready:
            self._give_up(self._failure or "its forkserver died while it was importing")
            return
        self._connect_forkserver()

    def _give_up(self, reason: str) -> None:
        """This node can run nothing any more."""
        self._failure = self._failure or reason
        self._programs.lose_all(f"node lost: {reason}")
        self._events.put(NodeLost(at=time.time(), node_id=self._config.node_id, reason=self._failure))
        self._settled.set()

    def _launch(self, launch: Launch) -> None:
        if self._failure:
            self._events.put(lost(launch, f"node {self._config.node_id} can run nothing: {self._failure}"))
        else:
            self._programs.launch(launch)
