"""What a stack's program hears of its members and says of them, and the memory that it is held to meanwhile."""

import socket
import sys
import threading
from dataclasses import replace

import pytest

from cluster import outputs, stack_worker, wire
from cluster.agent_line import AgentLine
from cluster.outputs import Artifacts
from cluster.stack_worker import WorkerStack
from orchestrator.schema import CUDA_CONTEXT_BYTES, DeviceKind, Outcome
from tests.unit.cluster.test_worker import TOTAL_BYTES, FakeTorch, assignment

GIB = 1 << 30


class Agent:
    """The agent's end of the line, and a stack at the other."""

    def __init__(self, ours, theirs, root, first):
        self._socket = ours
        self._buffer = wire.LineBuffer()
        self.artifacts = Artifacts(root)
        self.stack = WorkerStack(AgentLine(theirs), first, self.artifacts, root / "log")

    def say(self, kind, **rest):
        self._socket.sendall(wire.encode({"kind": kind, **rest}))

    def join(self, one):
        self.say("join", assignment=wire.assignment_to_wire(one))

    def heard(self):
        self._socket.setblocking(False)
        try:
            messages = self._buffer.feed(self._socket.recv(1 << 20))
        except BlockingIOError:
            messages = []
        return [(message["kind"], message["bundle_id"]) for message in messages]


def member(name, memory_bytes=0, kind=DeviceKind.CPU):
    one = assignment(kind, memory_bytes)
    return replace(one, bundle_id=name, stage=replace(one.stage, key=f"key-{name}"))


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def agent(ends, tmp_path):
    return Agent(*ends, tmp_path, member("a"))


def names(arrivals):
    return [one.bundle_id for one, _ in arrivals]


def test_members_are_handed_out_once_in_the_order_of_their_joins(agent):
    agent.join(member("b"))
    assert names(agent.stack.arrivals()) == ["a", "b"]
    assert agent.heard() == [("started", "a"), ("started", "b")]
    assert agent.stack.arrivals(0.01) == []


def test_who_was_asked_to_stop_is_not_handed_out(agent):
    agent.say("stop", bundle_id="a")
    assert agent.stack.arrivals(0.01) == []
    assert agent.heard() == [("stopped", "a")]


def test_a_stop_reaches_one_member_and_the_end_of_the_agent_all(agent, ends):
    agent.join(member("b"))
    (_, a), (_, b) = agent.stack.arrivals()
    agent.say("stop", bundle_id="b")
    assert (a.stop_requested(), b.stop_requested()) == (False, True)
    ends[0].close()
    assert (a.stop_requested(), b.stop_requested()) == (True, True)
    assert agent.stack.arrivals(60.0) == []


def test_reports_of_all_members_share_a_flush(agent):
    agent.join(member("b"))
    (_, a), (_, b) = agent.stack.arrivals()
    a.report(0, {}, 0.0)
    agent.heard()
    for channel in (a, b, a):
        channel.report(1, {"loss": 1.0}, 0.1)
    assert agent.heard() == []
    agent.stack.ended("b", Outcome(finished=False))
    assert agent.heard() == [("reports", "a"), ("reports", "b"), ("stopped", "b")]


def test_a_finished_member_is_told_of_once_its_output_is_committed(agent):
    agent.stack.arrivals()
    agent.artifacts.incoming("a").mkdir(parents=True)
    agent.stack.ended("a", Outcome(metrics={"loss": 1}))
    agent.stack.settle()
    assert agent.artifacts.verified("key-a") == Outcome(metrics={"loss": 1.0})
    assert agent.heard() == [("started", "a"), ("completed", "a")]


def test_the_program_goes_on_while_an_output_is_committed(agent, monkeypatch):
    agent.join(member("b"))
    (_, a), (_, b) = agent.stack.arrivals()
    agent.heard()
    agent.artifacts.incoming("a").mkdir(parents=True)
    a.report(9, {}, 1.0)
    disk = threading.Event()
    write = outputs._fsync_tree
    monkeypatch.setattr(outputs, "_fsync_tree", lambda folder: (disk.wait(), write(folder)))
    agent.stack.ended("a", Outcome())
    b.saved(1)
    assert agent.heard() == [("reports", "a"), ("saved", "b")]
    assert agent.artifacts.verified("key-a") is None
    disk.set()
    agent.stack.settle()
    assert agent.heard() == [("completed", "a")]


def test_members_that_end_together_are_each_told_of(agent):
    for name in "bcdefghijkl":
        agent.join(member(name))
    for name in names(agent.stack.arrivals()):
        agent.artifacts.incoming(name).mkdir(parents=True)
        agent.stack.ended(name, Outcome())
    agent.stack.settle()
    assert sorted(agent.heard()) == sorted((kind, name) for name in "abcdefghijkl" for kind in ("completed", "started"))
    assert agent.artifacts.available([f"key-{name}" for name in "abcdefghijkl"]) == {f"key-{n}" for n in "abcdefghijkl"}


def test_an_output_that_can_not_be_committed_is_its_members_failure_alone(agent):
    agent.join(member("b"))
    agent.stack.arrivals()
    agent.artifacts.incoming("b").mkdir(parents=True)
    for name in "ab":
        agent.stack.ended(name, Outcome())
    agent.stack.settle()
    assert sorted(agent.heard()[2:]) == [("completed", "b"), ("raised", "a")]


def ends_and_breaks(stack):
    stack.arrivals()
    stack.ended("a", Outcome())
    raise RuntimeError("broken")


def test_who_has_ended_is_told_of_before_what_comes_out_of_the_program(ends, tmp_path):
    first = member("a")
    first = replace(first, stage=replace(first.stage, fused_entrypoint=f"{__name__}:ends_and_breaks"))
    artifacts = Artifacts(tmp_path)
    artifacts.incoming("a").mkdir(parents=True)
    assert stack_worker.run(ends[1], first, artifacts, tmp_path / "log") == 1
    messages = wire.LineBuffer().feed(ends[0].recv(1 << 16))
    assert [(m["kind"], m.get("bundle_id")) for m in messages] == [
        ("started", "a"),
        ("completed", "a"),
        ("raised", None),
    ]
    assert artifacts.verified("key-a") is not None


def test_memory_refused_to_a_member_is_told_as_its_part(ends, tmp_path):
    agent = Agent(*ends, tmp_path, member("a", GIB))
    agent.join(member("b", 3 * GIB))
    agent.stack.arrivals()
    agent.stack.failed("b", MemoryError("Unable to allocate 8.00 GiB"))
    message = wire.LineBuffer().feed(ends[0].recv(1 << 16))[-1]
    assert (message["kind"], message["limit_bytes"]) == ("exceeded", 3 * GIB)
    assert 6 * GIB <= message["used_bytes"] < 7 * GIB


def test_the_allocator_may_take_what_the_members_may_and_less_once_the_program_has_gone_on(monkeypatch, ends, tmp_path):
    torch = FakeTorch()
    torch.cuda.empty_cache = lambda: torch.said.append("gave back")
    monkeypatch.setitem(sys.modules, "torch", torch)
    tenth = TOTAL_BYTES // 10
    agent = Agent(*ends, tmp_path, member("a", tenth + CUDA_CONTEXT_BYTES, DeviceKind.CUDA))
    agent.stack.arrivals()
    agent.join(member("b", 2 * tenth, DeviceKind.CUDA))
    agent.stack.arrivals()
    agent.stack.ended("b", Outcome(finished=False))
    assert torch.said == [(pytest.approx(0.1), 0), (pytest.approx(0.3), 0)]
    agent.stack.arrivals()
    assert torch.said[2:] == ["gave back", (pytest.approx(0.1), 0)]
    agent.stack.arrivals()
    assert len(torch.said) == 4


def broken(stack):
    stack.arrivals()
    raise MemoryError("Unable to allocate 8.00 GiB")


def test_what_comes_out_of_the_program_is_told_without_a_name(ends, tmp_path):
    first = member("a", GIB)
    first = replace(first, stage=replace(first.stage, fused_entrypoint=f"{__name__}:broken"))
    assert stack_worker.run(ends[1], first, Artifacts(tmp_path), tmp_path / "log") == 1
    message = wire.LineBuffer().feed(ends[0].recv(1 << 16))[-1]
    assert (message["kind"], message["limit_bytes"]) == ("exceeded", GIB)
    assert "bundle_id" not in message
