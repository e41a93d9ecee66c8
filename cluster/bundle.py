"""The life of one bundle's processes, as a pure state machine: messages and exits in, events out.

Guarantees that the terminal event is the last one, that there is exactly one, and that it comes only after the exit
of every process was reported.
"""

from dataclasses import dataclass, field

from cluster import wire
from cluster.bundle_events import BundleEvents
from cluster.memory import Excess, Limit
from cluster.process import Process
from orchestrator.events import BundleEvent


@dataclass(slots=True)
class RankProcess(Process):
    """One process of a bundle."""

    rank: int
    started: bool = False
    answer: wire.Message | None = None
    measured: wire.Message | None = None

    @property
    def lost(self) -> bool:
        """Ended by itself without an answer."""
        return self.ended and self.answer is None and not self.killed


@dataclass(slots=True)
class Bundle:
    """The processes of one launch, which may take as much memory as `memory_limit` says.

    `stop_reason` is set once a stop was asked for, `overdue` (the bundle's id) once it didn't follow in time, `excess`
    once it is to end, or was ended, for its memory.
    """

    bundle_id: str
    ranks: list[RankProcess]
    memory_limit: Limit = field(default_factory=Limit)
    stop_reason: str | None = None
    overdue: str = ""
    excess: Excess | None = None
    _events: BundleEvents = field(init=False)
    _started: bool = False
    _held: list[wire.Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._events = BundleEvents(self.bundle_id)

    def spawned(self, rank: int, pid: int) -> None:
        """The forkserver made the process."""
        self.ranks[rank].pid = pid

    def message(self, rank: int, message: wire.Message) -> list[BundleEvent]:
        """What a process said."""
        process = self.ranks[rank]
        if message["kind"] in ("reports", "saved"):
            self._held.append(message)
            return self._release()
        if message["kind"] == "started":
            process.started = True
            if all(p.started for p in self.ranks):
                self._started = True
                return [self._events.started(message["at"]), *self._release()]
            return []
        if message["kind"] == "measured":
            process.measured = message
            return self._measured(message["at"])
        process.answer = message
        return []

    def _measured(self, at: float) -> list[BundleEvent]:
        """What the bundle takes, once every process has said it: a gang's devices are as full as the fullest."""
        said = [process.measured for process in self.ranks if process.measured is not None]
        if len(said) < len(self.ranks):
            return []
        busy = [float(one["utilisation"]) for one in said if one["utilisation"] is not None]
        return [
            self._events.measured(
                at,
                memory_bytes=max(int(one["memory_bytes"]) for one in said),
                host_memory_bytes=sum(int(one["host_memory_bytes"]) for one in said),
                utilisation=sum(busy) / len(busy) if len(busy) == len(said) else None,
            )
        ]

    def stop(self, bundle_id: str, reason: str) -> bool:
        """A stop was asked for; False if one was before."""
        asked, self.stop_reason = self.stop_reason is not None, self.stop_reason or reason
        return not asked

    def exited(self, rank: int, status: int, killed: bool) -> None:
        """The process was reaped; everything it said came before."""
        self.ranks[rank].exited(status, killed)

    def vanished(self, rank: int, reason: str) -> None:
        """The process is gone and nobody can tell its status."""
        self.ranks[rank].is_gone(reason)

    @property
    def doomed(self) -> bool:
        """The bundle can't succeed any more, so what is left of it should be killed: a gang is as good as its worst."""
        failed = any(p.lost or _kind(p) in ("raised", "exceeded") for p in self.ranks)
        return failed or self.excess is not None or bool(self.overdue)

    def running(self) -> list[Process]:
        """Those not reported as ended."""
        return [process for process in self.ranks if not process.ended]

    def limit(self, now: float) -> Limit:
        """What its processes may take at any time."""
        return self.memory_limit

    def verdict(self, now: float, output: list[str]) -> list[BundleEvent]:
        """The terminal event, once every process has ended. `output` are the last lines of the log."""
        return [] if self.running() else [self._end(now, output)]

    def _end(self, now: float, output: list[str]) -> BundleEvent:
        if all(_kind(p) == "completed" for p in self.ranks):
            answer = self.ranks[0].answer
            assert answer is not None
            return self._events.completed(now, answer["outcome"])
        excess = self.excess or self._refused()
        if excess is not None:
            return self._events.exceeded(now, excess)
        # A lost process makes its peers raise (their collectives break), so the loss explains what they say.
        lost = next((p for p in self.ranks if p.lost), None)
        if lost is not None:
            why = "\n".join([lost.describe_loss(f"rank {lost.rank}"), *output])
            return self._events.lost(now, why, blameless=bool(lost.vanished))
        raised = [p.answer for p in self.ranks if p.answer is not None and p.answer["kind"] == "raised"]
        if raised:
            first = min(raised, key=lambda answer: answer["at"])
            return self._events.raised(now, first["error"])
        return self._events.paused(now, self._busy_s(), asked=self.stop_reason is not None)

    def _refused(self) -> Excess | None:
        """The largest that a process asked for in vain: its peers may raise, or die, of the same."""
        answers = [p.answer for p in self.ranks if p.answer is not None and p.answer["kind"] == "exceeded"]
        largest = max(answers, key=lambda answer: int(answer["used_bytes"]), default=None)
        return None if largest is None else wire.excess_from_wire(largest)

    def _busy_s(self) -> float:
        answer = self.ranks[0].answer
        return 0.0 if answer is None else wire.outcome_from_wire(answer["outcome"]).busy_s

    def _release(self) -> list[BundleEvent]:
        """What was said, once the bundle has started: nothing of a bundle comes before that."""
        if not self._started:
            return []
        held, self._held = self._held, []
        return [event for message in held for event in self._events.series(message)]


def _kind(process: RankProcess) -> str:
    return "" if process.answer is None else str(process.answer["kind"])
