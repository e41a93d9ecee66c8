"""The life of a stack's program, as a pure state machine: members, messages and the exit in, events out.

A stack is one process that trains many bundles, its members, at once. Each member's terminal event comes as soon as it
has left; there is exactly one, and nothing of the member follows. Those that the program leaves behind get theirs with
its exit, but for those that it ended well without ever having begun: `unheard` names them, for another program.
"""

from dataclasses import dataclass, field

from cluster import wire
from cluster.bundle_events import BundleEvents
from cluster.memory import Excess, Limit, limit_of, part_of
from cluster.process import Process
from orchestrator.events import BundleEvent, Launch
from orchestrator.schema import DeviceKind, Placement

GIVE_BACK_S = 5.0
"""So long may a program still have the memory of a member that has left [s]: it gives it back at its next steps."""


@dataclass(slots=True)
class _Member:
    """A bundle from its join to its end. `started`: the program has taken it in."""

    launch: Launch
    events: BundleEvents
    started: bool = False
    stop_reason: str | None = None


@dataclass(slots=True)
class Stack:
    """The process of a stack and those in it.

    `excess` is set once the program is to end, or was ended, for its memory, `overdue` to the member for which it is
    ended because it didn't follow a stop in time.
    """

    stack_id: str
    overdue: str = ""
    excess: Excess | None = None
    _process: Process = field(default_factory=Process)
    _kind: DeviceKind = DeviceKind.CPU
    _members: dict[str, _Member] = field(default_factory=dict)
    _left: list[tuple[float, Placement]] = field(default_factory=list)
    _answer: wire.Message | None = None
    _heard_one: bool = False

    def join(self, launch: Launch) -> None:
        """The program is given another member."""
        self._kind = launch.devices[0].kind
        self._members[launch.bundle_id] = _Member(launch, BundleEvents(launch.bundle_id))

    def stop(self, bundle_id: str, reason: str) -> bool:
        """A stop of a member was asked for; False if one was before, or if it isn't here."""
        member = self._members.get(bundle_id)
        if member is None or member.stop_reason is not None:
            return False
        member.stop_reason = reason
        return True

    def spawned(self, rank: int, pid: int) -> None:
        """The forkserver made the process; `rank` is 0, here and below."""
        self._process.pid = pid

    def message(self, rank: int, message: wire.Message) -> list[BundleEvent]:
        """What the program said, of a member or of itself. What it says of somebody who has left is dropped."""
        if "bundle_id" not in message:
            self._answer = message
            return []
        member = self._members.get(message["bundle_id"])
        if member is None:
            return []
        self._heard_one = True
        if message["kind"] == "started":
            return self._start(member, message["at"])
        if message["kind"] in ("reports", "saved", "measured"):
            return _told(member, message) if member.started else []
        self._leave(member, message["at"])
        return [_answer(member, message)]

    def exited(self, rank: int, status: int, killed: bool) -> None:
        """The process was reaped; everything it said came before."""
        self._process.exited(status, killed)

    def vanished(self, rank: int, reason: str) -> None:
        """The process is gone and nobody can tell its status."""
        self._process.is_gone(reason)

    @property
    def doomed(self) -> bool:
        """The program can't go on, so it should be killed if it still runs; nobody can join it."""
        return self.excess is not None or bool(self.overdue) or self._answer is not None

    def running(self) -> list[Process]:
        """The process, until it is reported as ended."""
        return [] if self._process.ended else [self._process]

    def limit(self, now: float) -> Limit:
        """What the program may take: the sum of what its members may, and for a while those who have left [seconds
        since the epoch]. None while nobody is there."""
        self._left = [(at, placement) for at, placement in self._left if now - at < GIVE_BACK_S]
        placements = [member.launch.placement for member in self._members.values()]
        if not placements:
            return Limit()
        return limit_of(self._kind, [*placements, *(placement for _, placement in self._left)])

    def verdict(self, now: float, output: list[str]) -> list[BundleEvent]:
        """The terminal events of those whom the program left behind, once it has ended. `output` are the last lines of
        the log."""
        if self.running():
            return []
        excess = self.excess or self._refused()
        reason = self._describe_end(output)
        inside = [member for member in self._members.values() if member.started]
        left_behind = self._members
        self._members = {launch.bundle_id: left_behind[launch.bundle_id] for launch in self.unheard()}
        return [
            self._end(member, now, reason, excess, inside)
            for bundle_id, member in left_behind.items()
            if bundle_id not in self._members
        ]

    def unheard(self) -> list[Launch]:
        """Those whom a program that has ended well never took in, the first that joined first: they go to another one.
        A program that took in nobody at all would do so again, and has not ended well."""
        if self._process.status != 0 or not self._heard_one:
            return []
        return [m.launch for m in self._members.values() if not m.started and m.stop_reason is None]

    def _start(self, member: _Member, at: float) -> list[BundleEvent]:
        if member.started:
            return []
        member.started = True
        return [member.events.started(at)]

    def _leave(self, member: _Member, at: float) -> None:
        del self._members[member.launch.bundle_id]
        if member.started:
            self._left.append((at, member.launch.placement))

    def _end(
        self, member: _Member, now: float, reason: str, excess: Excess | None, inside: list[_Member]
    ) -> BundleEvent:
        if member.started and excess is not None:
            shares = [_given(one, excess) for one in inside]
            return member.events.exceeded(now, part_of(excess, _given(member, excess), shares))
        killed = self._process.killed and self._answer is None
        if member.stop_reason is not None and (killed or not member.started):
            return member.events.stopped(now)
        return member.events.lost(now, reason, blameless=bool(self._process.vanished) and self._answer is None)

    def _refused(self) -> Excess | None:
        answer = self._answer
        return wire.excess_from_wire(answer) if answer is not None and answer["kind"] == "exceeded" else None

    def _describe_end(self, output: list[str]) -> str:
        name = f"the program of stack {self.stack_id}"
        if self._answer is not None and self._answer["kind"] == "raised":
            return f"{name} raised\n{self._answer['error']}"
        if self.overdue and self._process.killed:
            return f"{name} was killed: its member {self.overdue} was asked to stop and did not leave in time"
        return "\n".join([self._process.describe_loss(name), *output])


def _told(member: _Member, message: wire.Message) -> list[BundleEvent]:
    if message["kind"] != "measured":
        return member.events.series(message)
    device_bytes, host_bytes = message["memory_bytes"], message["host_memory_bytes"]
    return [member.events.measured(message["at"], device_bytes, host_bytes, message["utilisation"])]


def _answer(member: _Member, message: wire.Message) -> BundleEvent:
    kind, at, events = message["kind"], message["at"], member.events
    if kind == "completed":
        return events.completed(at, message["outcome"])
    if kind == "stopped":
        outcome = wire.outcome_from_wire(message["outcome"])
        return events.paused(at, outcome.busy_s, asked=member.stop_reason is not None)
    if kind == "exceeded":
        return events.exceeded(at, wire.excess_from_wire(message))
    return events.raised(at, message["error"])


def _given(member: _Member, excess: Excess) -> int:
    placement = member.launch.placement
    return placement.host_memory_bytes if excess.on_host else placement.memory_bytes
