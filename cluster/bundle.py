"""The life of one bundle's processes, as a pure state machine: messages and exits in, events out.

Guarantees that the terminal event is the last one, that there is exactly one, and that it comes only after the exit
of every process was reported.
"""

import signal
from dataclasses import dataclass, field

from cluster import wire
from cluster.memory import Excess
from orchestrator.events import (
    BundleEvent,
    BundleStarted,
    BundleStopped,
    MemoryExceeded,
    StageCompleted,
    StageMeasured,
    StageRaised,
    StageReported,
    StageSaved,
    WorkerLost,
)


@dataclass(slots=True)
class RankProcess:
    """One process of a bundle. `status` is as `os.waitstatus_to_exitcode` gives it, None while it runs (or when
    nobody can know: see `vanished`); `killed` says that we ended it."""

    rank: int
    pid: int | None = None
    started: bool = False
    answer: wire.Message | None = None
    measured: wire.Message | None = None
    ended: bool = False
    status: int | None = None
    killed: bool = False
    vanished: str = ""

    @property
    def lost(self) -> bool:
        """Ended by itself without an answer."""
        return self.ended and self.answer is None and not self.killed

    def describe_loss(self) -> str:
        """How it ended, for a human."""
        name = f"rank {self.rank} (pid {self.pid})"
        if self.vanished:
            return f"{name} was lost: {self.vanished}"
        if self.status is not None and self.status < 0:
            return f"{name} was killed by {_signal_name(-self.status)}"
        return f"{name} exited with status {self.status} without an answer"


@dataclass(slots=True)
class Bundle:
    """The processes of one launch. `stop_reason` is set once a stop was asked for, `excess` once it is to
    end, or was ended, for its memory."""

    bundle_id: str
    ranks: list[RankProcess]
    stop_reason: str | None = None
    excess: Excess | None = None
    _started_at: float | None = None
    _last_at: float = 0.0
    _held: list[wire.Message] = field(default_factory=list)

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
                self._started_at = self._stamp(message["at"])
                return [BundleStarted(at=self._started_at, bundle_id=self.bundle_id), *self._release()]
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
            StageMeasured(
                at=self._stamp(at),
                bundle_id=self.bundle_id,
                memory_bytes=max(int(one["memory_bytes"]) for one in said),
                host_memory_bytes=sum(int(one["host_memory_bytes"]) for one in said),
                utilisation=sum(busy) / len(busy) if len(busy) == len(said) else None,
            )
        ]

    def exited(self, rank: int, status: int, killed: bool) -> None:
        """The process was reaped; everything it said came before."""
        process = self.ranks[rank]
        process.ended, process.status, process.killed = True, status, killed

    def vanished(self, rank: int, reason: str) -> None:
        """The process is gone and nobody can tell its status."""
        self.ranks[rank].ended, self.ranks[rank].vanished = True, reason

    @property
    def doomed(self) -> bool:
        """The bundle can't succeed any more, so what is left of it should be killed: a gang is as good as its worst."""
        return self.excess is not None or any(p.lost or _kind(p) in ("raised", "exceeded") for p in self.ranks)

    def running(self) -> list[RankProcess]:
        """Those not reported as ended."""
        return [process for process in self.ranks if not process.ended]

    def verdict(self, now: float, output: list[str]) -> BundleEvent | None:
        """The terminal event, once every process has ended. `output` are the last lines of the log."""
        if self.running():
            return None
        at, bundle_id = self._stamp(now), self.bundle_id
        if all(_kind(p) == "completed" for p in self.ranks):
            answer = self.ranks[0].answer
            assert answer is not None
            return StageCompleted(at=at, bundle_id=bundle_id, outcome=wire.outcome_from_wire(answer["outcome"]))
        excess = self.excess or self._refused()
        if excess is not None:
            return MemoryExceeded(
                at=at,
                bundle_id=bundle_id,
                used_bytes=excess.used_bytes,
                limit_bytes=excess.limit_bytes,
                on_host=excess.on_host,
            )
        # A lost process makes its peers raise (their collectives break), so the loss explains what they say.
        lost = next((p for p in self.ranks if p.lost), None)
        if lost is not None:
            reason = "\n".join([lost.describe_loss(), *output])
            return WorkerLost(at=at, bundle_id=bundle_id, reason=reason)
        raised = [p.answer for p in self.ranks if p.answer is not None and p.answer["kind"] == "raised"]
        if raised:
            first = min(raised, key=lambda answer: answer["at"])
            return StageRaised(at=at, bundle_id=bundle_id, error=first["error"])
        if self.stop_reason is not None:
            return BundleStopped(at=at, bundle_id=bundle_id, busy_s=self._busy_s())
        return StageRaised(
            at=at, bundle_id=bundle_id, error="the stage returned finished=False although nobody asked it to stop"
        )

    def _refused(self) -> Excess | None:
        """The largest that a process asked for in vain: its peers may raise, or die, of the same."""
        answers = [p.answer for p in self.ranks if p.answer is not None and p.answer["kind"] == "exceeded"]
        largest = max(answers, key=lambda answer: int(answer["used_bytes"]), default=None)
        if largest is None:
            return None
        used, limit = int(largest["used_bytes"]), int(largest["limit_bytes"])
        return Excess(used_bytes=used, limit_bytes=limit, on_host=bool(largest["on_host"]))

    def _busy_s(self) -> float:
        answer = self.ranks[0].answer
        return 0.0 if answer is None else wire.outcome_from_wire(answer["outcome"]).busy_s

    def _release(self) -> list[BundleEvent]:
        """What was said, once the bundle has started: nothing of a bundle comes before that."""
        if self._started_at is None:
            return []
        held, self._held = self._held, []
        return [event for message in held for event in self._events_of(message)]

    def _events_of(self, message: wire.Message) -> list[BundleEvent]:
        if message["kind"] == "saved":
            return [StageSaved(at=self._stamp(message["at"]), bundle_id=self.bundle_id, step=message["step"])]
        return [
            StageReported(
                at=self._stamp(report["at"]),
                bundle_id=self.bundle_id,
                step=report["step"],
                metrics=report["metrics"],
                progress=report["progress"],
            )
            for report in message["reports"]
        ]

    def _stamp(self, at: float) -> float:
        """Never goes back within a bundle, whatever the clock does."""
        self._last_at = max(self._last_at, at)
        return self._last_at


def _kind(process: RankProcess) -> str:
    return "" if process.answer is None else str(process.answer["kind"])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
