"""What runs in the child of a forkserver for a stack: one program that trains many bundles, its members, at once.

It resolves the fused entrypoint of the first member's stage and runs it with a `WorkerStack`. Each member gets an
answer of its own, as `cluster.worker` says, once it has left and its output, if it has one, is committed; the others go
on training meanwhile. What comes out of the program itself is told without a name: it is nobody's fault in particular.
Who joined and was never handed out gets no answer. The process ends once all outputs are committed.
"""

import ctypes
import socket
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from cluster import wire
from cluster.agent_line import AgentLine, WorkerChannel
from cluster.memory import Excess, part_of, refused, total_bytes
from cluster.outputs import Artifacts
from cluster.wire import outcome_to_wire
from cluster.worker import answer_of, failure_answer, hold_memory, hold_threads, resolve
from orchestrator.schema import Assignment, DeviceKind, Outcome

COMMITS_AT_ONCE = 8
"""Members end together: the disk has time for one as for many, see `cluster.outputs`."""
_LIBC = ctypes.CDLL(None)


class WorkerStack:
    """`experiments.channel.Stack` over the line to the agent. On a GPU the allocator may take what the members may
    take together: more as soon as one is handed out, less at the first `arrivals` after one has left.

    A commit waits for the disk, not for the device: it goes on beside the program, in a thread.
    """

    def __init__(self, line: AgentLine, first: Assignment, artifacts: Artifacts, log: Path) -> None:
        self._line = line
        self._artifacts = artifacts
        self._log = log
        self._kind = first.device_kind
        self._members: dict[str, Assignment] = {}
        self._somebody_left = False
        self._commits = ThreadPoolExecutor(COMMITS_AT_ONCE, "commit")
        self._committing: list[Future[None]] = []
        line.joins.append(first)

    def arrivals(self, timeout_s: float = 0.0) -> list[tuple[Assignment, WorkerChannel]]:
        """See `experiments.channel.Stack`. Who was asked to stop meanwhile is not handed out. Raises OSError if the
        agent is gone."""
        self._line.flush_if_due()
        self._line.listen()
        self._take_back()
        deadline = time.monotonic() + timeout_s
        while not (came := self._hand_out()) and not self._line.gone and (left_s := deadline - time.monotonic()) > 0:
            self._line.flush()
            self._line.listen(left_s)
        if came:
            hold_memory(self._kind, self._granted_bytes())
        return came

    def ended(self, bundle_id: str, outcome: Outcome) -> None:
        """See `experiments.channel.Stack`. Raises KeyError for one that is no member, and OSError if the agent is
        gone."""
        member = self._leave(bundle_id)
        if outcome.finished:
            self._committing = [commit for commit in self._committing if not _is_over(commit)]
            self._committing.append(self._commits.submit(self._commit, member, outcome))
        else:
            self._tell(member, answer_of(outcome, member, self._artifacts))

    def failed(self, bundle_id: str, error: Exception) -> None:
        """See `experiments.channel.Stack`. Raises KeyError for one that is no member, and OSError if the agent is
        gone."""
        excess = self.excess_of(error)
        if excess is not None:
            excess = part_of(excess, self._given(self._members[bundle_id], excess), self._all_given(excess))
        answer = failure_answer(error, excess, self._log)
        self._tell(self._leave(bundle_id), answer)

    def settle(self) -> None:
        """Until all who have ended are told of, their outputs committed. Raises OSError if the agent is gone."""
        self._commits.shutdown(wait=True)
        for commit in self._committing:
            commit.result()

    def excess_of(self, error: BaseException) -> Excess | None:
        """The program's, beyond what all members may take, if `error` comes from that."""
        host_bytes = total_bytes(member.host_memory_bytes for member in self._members.values())
        return refused(error, self._kind, self._granted_bytes(), host_bytes)

    def _commit(self, member: Assignment, outcome: Outcome) -> None:
        try:
            answer = answer_of(outcome, member, self._artifacts)
        except Exception as error:  # this member's alone: it fails, and the program goes on
            answer = failure_answer(error, None, self._log)
        self._tell(member, answer)

    def _tell(self, member: Assignment, answer: wire.Message) -> None:
        self._line.tell({**answer, "bundle_id": member.bundle_id})

    def _hand_out(self) -> list[tuple[Assignment, WorkerChannel]]:
        came = []
        while self._line.joins and not self._line.gone:
            assignment = self._line.joins.popleft()
            bundle_id = assignment.bundle_id
            if bundle_id in self._line.stops:
                unbegun = outcome_to_wire(Outcome(finished=False))
                self._line.tell({"kind": "stopped", "bundle_id": bundle_id, "outcome": unbegun})
                continue
            self._members[bundle_id] = assignment
            self._line.tell({"kind": "started", "bundle_id": bundle_id})
            came.append((assignment, WorkerChannel(self._line, bundle_id, assignment.rank, assignment.phase_dir)))
        return came

    def _leave(self, bundle_id: str) -> Assignment:
        member = self._members.pop(bundle_id)
        self._line.stops.discard(bundle_id)
        self._somebody_left = True
        return member

    def _take_back(self) -> None:
        # Not in `_leave`: the program takes a member's part out of its tensors after it has said that it left, and may
        # need room for a copy of the rest meanwhile.
        if self._somebody_left:
            self._somebody_left = False
            _give_back(self._kind)
            hold_memory(self._kind, self._granted_bytes())

    def _granted_bytes(self) -> int:
        return total_bytes(member.memory_bytes for member in self._members.values())

    def _given(self, member: Assignment, excess: Excess) -> int:
        return member.host_memory_bytes if excess.on_host else member.memory_bytes

    def _all_given(self, excess: Excess) -> list[int]:
        return [self._given(member, excess) for member in self._members.values()]


def run(connection: socket.socket, first: Assignment, artifacts: Artifacts, log: Path) -> int:
    """Run the program of a stack whose first member is `first`; the exit status of the process (0: it returned)."""
    line = AgentLine(connection)
    stack = WorkerStack(line, first, artifacts, log)
    try:
        try:
            hold_threads(first.threads)
            resolve(first.stage.fused_entrypoint)(stack)
        finally:
            stack.settle()
    except BaseException as error:  # SystemExit and KeyboardInterrupt out of a program are its failures too
        line.tell(failure_answer(error, stack.excess_of(error), log))
        return 1
    line.flush()
    return 0


def _is_over(commit: Future[None]) -> bool:
    """Raises what the commit did: that the agent is gone."""
    return commit.done() and commit.result() is None


def _give_back(kind: DeviceKind) -> None:
    """Free memory that an allocator has kept for later: who left has no share in it any more."""
    torch = sys.modules.get("torch")
    if kind is DeviceKind.CUDA and torch is not None:
        torch.cuda.empty_cache()
    elif kind is DeviceKind.CPU and hasattr(_LIBC, "malloc_trim"):  # glibc's
        _LIBC.malloc_trim(0)
