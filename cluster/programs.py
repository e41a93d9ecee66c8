"""What runs on a node: programs, each the processes of one bundle or the one process of a stack.

Everything happens in the thread of the node's agent. Every launch ends in exactly one terminal event: a bundle's once
all of its processes ended, a stack's member's once it has left its program. A completed output is committed by then.
"""

import contextlib
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cluster import wire
from cluster.agent_config import AgentConfig
from cluster.assignments import Seat, seats
from cluster.bundle import Bundle, RankProcess
from cluster.forkserver_client import ForkserverConnection, end_group
from cluster.memory import MemoryWatch, limit_of
from cluster.outputs import Artifacts
from cluster.phases import GateFolders
from cluster.stack import Stack
from cluster.worker import log_tail
from cluster.worker_client import WorkerConnection
from orchestrator.events import BUNDLE_ENDS, BundleStopped, Event, Launch, StageRaised, WorkerLost

_LOG_TAIL_LINES = 5


@dataclass(slots=True)
class _Program:
    """`name` is the id of its first bundle. `closed`: nobody can join it any more, it ends."""

    name: str
    life: Bundle | Stack
    log: Path
    lines: dict[str, WorkerConnection] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    closed: bool = False


class Programs:
    """Starts them, has them joined, stops them, and sees them end."""

    def __init__(self, config: AgentConfig, selector: selectors.BaseSelector, say: Callable[[Event], None]) -> None:
        """What is registered at `selector` has as its data what to call; `say` is told all events."""
        self._config = config
        self._artifacts = Artifacts(config.artifacts)
        self._selector = selector
        self._say = say
        self._server: ForkserverConnection | None = None
        self._waiting: list[Launch] = []
        self._programs: dict[str, _Program] = {}
        self._by_bundle: dict[str, _Program] = {}
        self._by_stack: dict[str, _Program] = {}
        self._by_process: dict[str, _Program] = {}
        self._stop_deadlines: dict[str, float] = {}
        self._memory = MemoryWatch(config.memory_sample_s)
        self._gates = GateFolders()

    # --- what the agent asks -----------------------------------------------------------------------------------------

    def launch(self, launch: Launch) -> None:
        """Start a bundle, or have it join its stack's program; it waits for a forkserver, and for a program of its
        stack that is about to end."""
        stack = self._by_stack.get(launch.placement.stack_id)
        if self._server is None or (stack is not None and stack.closed):
            self._waiting.append(launch)
            return
        try:
            places = seats(launch, self._artifacts, self._config.cores, len(self._config.devices), self._gates)
            self._artifacts.prepare(launch.bundle_id, launch.study_id, launch.stage.key)
            if stack is None:
                self._start(launch, places, self._server)
            else:
                self._join(stack, launch, places[0])
        except OSError as error:
            self._artifacts.discard(launch.bundle_id)
            self._say(lost(launch, str(error)))
        except (ValueError, IndexError, TypeError) as error:
            # A key that can't name a folder, a device of another node, a stage config that is no plain data.
            with contextlib.suppress(ValueError):
                self._artifacts.discard(launch.bundle_id)
            self._say(StageRaised(at=time.time(), bundle_id=launch.bundle_id, error=str(error)))

    def stop(self, bundle_id: str, reason: str) -> None:
        """Ask a bundle to end at its next step boundary; unknown and ended ones are ignored."""
        if any(launch.bundle_id == bundle_id for launch in self._waiting):
            self._waiting = [launch for launch in self._waiting if launch.bundle_id != bundle_id]
            self._say(BundleStopped(at=time.time(), bundle_id=bundle_id))
            return
        program = self._by_bundle.get(bundle_id)
        if program is None or not program.life.stop(bundle_id, reason):
            return
        self._stop_deadlines[bundle_id] = time.monotonic() + self._config.stop_grace_s
        for process in program.lines:
            self._tell(program, process, {"kind": "stop", "bundle_id": bundle_id})

    def check(self) -> None:
        """End those that are over their memory, or that didn't follow a stop in time."""
        now = time.monotonic()
        for bundle_id in [name for name, deadline in self._stop_deadlines.items() if now >= deadline]:
            del self._stop_deadlines[bundle_id]
            program = self._by_bundle[bundle_id]
            program.life.overdue = program.life.overdue or bundle_id
            self._end(program)
        if self._memory.due(now):
            for program in self._programs.values():
                pids = [process.pid for process in program.life.running() if process.pid is not None]
                excess = self._memory.excess(program.name, program.life.limit(time.time()), pids)
                if excess is not None and program.life.excess is None:
                    program.life.excess = excess
                    self._end(program)

    def time_to_next_check(self) -> float | None:
        """Seconds until `check` has something to do; None if only messages matter."""
        if not self._programs:
            return None
        return max(0.0, min((self._memory.next_sample, *self._stop_deadlines.values())) - time.monotonic())

    def lose_all(self, reason: str) -> None:
        """Nothing will ever run here again."""
        waiting, self._waiting = self._waiting, []
        at = time.time()
        for bundle_id in [*self._by_bundle, *(launch.bundle_id for launch in waiting)]:
            self._tell_of(WorkerLost(at=at, bundle_id=bundle_id, reason=reason, blameless=True))

    def release(self) -> None:
        """Their forkserver ends: until all of them have, then nothing of theirs is left but logs and checkpoints."""
        for program in self._programs.values():
            for connection in program.lines.values():
                connection.await_end()
                connection.close()
        for bundle_id in [*self._by_bundle, *(launch.bundle_id for launch in self._waiting)]:
            self._artifacts.discard(bundle_id)
        self._gates.remove()

    # --- what the forkserver says ------------------------------------------------------------------------------------

    def forkserver_ready(self, server: ForkserverConnection) -> None:
        """Programs can be started."""
        self._server = server
        self._launch_waiting()

    def forkserver_said(self, message: wire.Message) -> None:
        """That a process was `spawned`, or has `exited`."""
        program = self._by_process.get(message["process"])
        if program is None:
            return
        if message["kind"] == "spawned":
            program.life.spawned(program.ranks[message["process"]], message["pid"])
            if program.life.doomed:
                self._end(program)
        else:
            self._exited(program, message["process"], message["status"], message["killed"])

    def forkserver_died(self) -> None:
        """Every process has died with it."""
        self._server = None
        for process, program in list(self._by_process.items()):
            # The kernel kills the children with their parent, but not what they have started, which is in their groups.
            # The end of their streams says that it has happened.
            for running in program.life.running():
                end_group(running.pid)
            program.lines[process].expect_end()
            self._exited(program, process, status=None, killed=False)

    # --- the life of a program ---------------------------------------------------------------------------------------

    def _start(self, launch: Launch, places: tuple[Seat, ...], server: ForkserverConnection) -> None:
        """Raises TypeError for a stage config that is no plain data, and OSError."""
        stack_id, kind = launch.placement.stack_id, launch.devices[0].kind
        life: Bundle | Stack
        if stack_id:
            life = Stack(stack_id)
            life.join(launch)
        else:
            ranks = [RankProcess(rank) for rank in range(len(places))]
            life = Bundle(launch.bundle_id, ranks, limit_of(kind, [launch.placement]))
        program = _Program(launch.bundle_id, life, self._log(stack_id or launch.bundle_id))
        self._link_log(program, launch.bundle_id)
        for rank, seat in enumerate(places):
            # Raises TypeError for the first one or for none: the others are told the same.
            self._spawn(program, rank, seat, server, stack=bool(stack_id))
        self._programs[program.name] = self._by_bundle[launch.bundle_id] = program
        if stack_id:
            self._by_stack[stack_id] = program

    def _spawn(self, program: _Program, rank: int, seat: Seat, server: ForkserverConnection, *, stack: bool) -> None:
        request = {
            "assignment": wire.assignment_to_wire(seat.assignment),
            "stack": stack,
            "artifacts": str(self._artifacts.root),
            "log": str(program.log),
            "cores": seat.cores,
            "environment": seat.environment,
        }
        process = f"{program.name}/{rank}"
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                server.spawn(process, request, theirs)
            except TypeError:
                ours.close()
                raise
        program.lines[process], program.ranks[process] = WorkerConnection(ours), rank
        self._by_process[process] = program
        self._selector.register(ours, selectors.EVENT_READ, partial(self._converse, process))

    def _join(self, program: _Program, launch: Launch, seat: Seat) -> None:
        """Raises TypeError for a stage config that is no plain data, and OSError."""
        assert isinstance(program.life, Stack)
        self._link_log(program, launch.bundle_id)
        (process,) = program.lines
        self._tell(program, process, {"kind": "join", "assignment": wire.assignment_to_wire(seat.assignment)})
        program.life.join(launch)
        self._by_bundle[launch.bundle_id] = program

    def _log(self, name: str) -> Path:
        return self._config.logs / f"{name}.log"

    def _link_log(self, program: _Program, bundle_id: str) -> None:
        """A bundle's log is found by its id, also if it is written by the program of a stack. Raises OSError."""
        link = self._log(bundle_id)
        if link != program.log:
            link.unlink(missing_ok=True)
            link.symlink_to(program.log.name)

    def _tell(self, program: _Program, process: str, message: wire.Message) -> None:
        program.lines[process].send(message)
        self._attend(program, process)

    def _attend(self, program: _Program, process: str) -> None:
        """Wake up for what a process says, and while something waits to be sent to it."""
        connection = program.lines[process]
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.wants_to_send else 0)
        with contextlib.suppress(KeyError):  # it says no more
            self._selector.modify(connection, mask, partial(self._converse, process))

    def _converse(self, process: str) -> None:
        program = self._by_process.get(process)
        if program is None:  # its exit was handled in this very round
            return
        program.lines[process].flush()
        if self._drain(program, process):
            self._attend(program, process)
        else:
            # The exit, which the forkserver reports, is what counts.
            program.closed = True
            self._selector.unregister(program.lines[process])
        if program.life.doomed:
            self._end(program)

    def _drain(self, program: _Program, process: str) -> bool:
        """Take in all that a process has said so far; False at the end of its stream."""
        messages, more = program.lines[process].read()
        for message in messages:
            for event in program.life.message(program.ranks[process], message):
                self._tell_of(event)
        return more

    def _exited(self, program: _Program, process: str, status: int | None, killed: bool) -> None:
        life, rank = program.life, program.ranks[process]
        self._drain(program, process)
        del self._by_process[process]
        connection = program.lines.pop(process)
        with contextlib.suppress(KeyError):
            self._selector.unregister(connection)
        connection.close()
        if status is None:
            life.vanished(rank, "its forkserver died")
        else:
            life.exited(rank, status, killed)
            if not killed and life.excess is None:
                life.excess = self._memory.killed_for_it(program.name, life.limit(time.time()), status)
        if not life.running():
            self._ended(program)
        elif life.doomed:
            self._end(program)

    def _ended(self, program: _Program) -> None:
        del self._programs[program.name]
        self._memory.forget(program.name)
        for event in program.life.verdict(time.time(), log_tail(program.log, _LOG_TAIL_LINES)):
            self._tell_of(event)
        if isinstance(program.life, Stack):
            del self._by_stack[program.life.stack_id]
            for launch in program.life.unheard():
                del self._by_bundle[launch.bundle_id]
                self.launch(launch)
            self._launch_waiting()

    def _launch_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for launch in waiting:
            self.launch(launch)

    def _end(self, program: _Program) -> None:
        """Kill what is left of it."""
        program.closed = True
        for process in program.life.running():
            if process.pid is not None and self._server is not None:
                self._server.kill(process.pid)

    def _tell_of(self, event: Event) -> None:
        """Nothing of a bundle is left once its end is told."""
        if isinstance(event, BUNDLE_ENDS):
            self._by_bundle.pop(event.bundle_id, None)
            self._stop_deadlines.pop(event.bundle_id, None)
            self._artifacts.discard(event.bundle_id)
        self._say(event)


def lost(launch: Launch, reason: str) -> WorkerLost:
    """The end of a launch that no process of its was heard of: its node's fault."""
    return WorkerLost(at=time.time(), bundle_id=launch.bundle_id, reason=reason, blameless=True)
