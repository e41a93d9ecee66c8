"""The pure state machine of a stack's program: one end for each member, whatever happens in which order."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.memory import Excess, Limit
from cluster.stack import GIVE_BACK_S, Stack
from orchestrator.events import (
    BUNDLE_ENDS,
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
from orchestrator.schema import Device, DeviceKind, Outcome
from tests.unit.cluster.launches import make_launch

REFUSED = {"kind": "exceeded", "at": 5.0, "used_bytes": 900, "limit_bytes": 600, "on_host": False}


def launch(name, memory_bytes=0, kind=DeviceKind.CPU):
    device = Device(device_id="n/0", node_id="n", index=0, kind=kind, memory_bytes=1 << 30)
    made = make_launch((device,), bundle_id=name)
    return replace(made, placement=replace(made.placement, memory_bytes=memory_bytes, stack_id="s"))


def stack_of(*names, memory_bytes=0, started=True):
    stack = Stack("s")
    for name in names:
        stack.join(launch(name, memory_bytes))
    stack.spawned(0, 100)
    for name in names if started else ():
        stack.message(0, says("started", name, at=1.0))
    return stack


def says(kind, name, at=2.0, **rest):
    return {"kind": kind, "bundle_id": name, "at": at, **rest}


def outcome(**values):
    return {"metrics": {}, "busy_s": 0.0, **values}


COMPLETED = {"outcome": outcome(metrics={"loss": 0.5})}
PAUSED = {"outcome": outcome(finished=False, busy_s=1.5)}


def ends_of(stack, status=None, killed=False, output=()):
    if status is not None:
        stack.exited(0, status, killed)
    return {event.bundle_id: event for event in stack.verdict(9.0, list(output))}


def test_members_start_report_and_end_one_by_one():
    stack = stack_of("a", "b", started=False)
    assert stack.message(0, says("started", "a", at=1.0)) == [BundleStarted(at=1.0, bundle_id="a")]
    reports = [{"at": 2.0, "step": 1, "metrics": {"loss": 1.0}, "progress": 0.5}]
    assert stack.message(0, {"kind": "reports", "bundle_id": "a", "reports": reports}) == [
        StageReported(at=2.0, bundle_id="a", step=1, metrics={"loss": 1.0}, progress=0.5)
    ]
    assert stack.message(0, says("saved", "a", step=1)) == [StageSaved(at=2.0, bundle_id="a", step=1)]
    taken = {"memory_bytes": 10, "host_memory_bytes": 20, "utilisation": 0.5}
    assert stack.message(0, says("measured", "a", **taken)) == [StageMeasured(at=2.0, bundle_id="a", **taken)]
    assert stack.message(0, says("completed", "a", at=3.0, **COMPLETED)) == [
        StageCompleted(at=3.0, bundle_id="a", outcome=Outcome(metrics={"loss": 0.5}))
    ]
    assert stack.message(0, says("started", "b", at=2.5)) == [BundleStarted(at=2.5, bundle_id="b")]
    assert not stack.doomed


def test_time_never_goes_back_for_a_member():
    stack = stack_of("a")
    assert stack.message(0, says("completed", "a", at=0.5, **COMPLETED))[0].at == 1.0


def test_nothing_is_heard_of_a_member_after_its_end():
    stack = stack_of("a", "b")
    stack.message(0, says("raised", "a", error="its own fault"))
    assert stack.message(0, says("saved", "a", step=1)) == []
    assert stack.message(0, says("completed", "a", **COMPLETED)) == []
    assert set(ends_of(stack, -9)) == {"b"}


def test_a_member_that_was_asked_pauses_and_one_that_was_not_is_at_fault():
    stack = stack_of("a", "b")
    assert stack.stop("a", "pruned")
    assert not stack.stop("a", "pruned twice")
    assert not stack.stop("never heard of", "why not")
    assert stack.message(0, says("stopped", "a", **PAUSED)) == [BundleStopped(at=2.0, bundle_id="a", busy_s=1.5)]
    (raised,) = stack.message(0, says("stopped", "b", **PAUSED))
    assert isinstance(raised, StageRaised)
    assert "finished=False" in raised.error


def test_a_member_may_fail_or_be_refused_memory_alone():
    stack = stack_of("a", "b", "c")
    assert stack.message(0, says("raised", "a", error="bad")) == [StageRaised(at=2.0, bundle_id="a", error="bad")]
    assert stack.message(0, {**REFUSED, "bundle_id": "b"}) == [
        MemoryExceeded(at=5.0, bundle_id="b", used_bytes=900, limit_bytes=600)
    ]
    assert not stack.doomed


def test_who_was_never_taken_in_goes_to_another_program_after_a_good_end():
    stack = stack_of("a", started=True)
    stack.join(launch("b"))
    stack.join(launch("c"))
    stack.stop("c", "cancelled")
    stack.message(0, says("completed", "a", **COMPLETED))
    assert ends_of(stack, 0) == {"c": BundleStopped(at=9.0, bundle_id="c")}
    assert [again.bundle_id for again in stack.unheard()] == ["b"]


@pytest.mark.parametrize("status", [1, -9])
def test_who_was_never_taken_in_is_lost_after_a_bad_end(status):
    stack = stack_of("a")
    stack.join(launch("b"))
    assert {type(event) for event in ends_of(stack, status).values()} == {WorkerLost}
    assert stack.unheard() == []


def test_a_program_that_took_nobody_in_is_not_tried_again():
    stack = stack_of("a", started=False)
    assert isinstance(ends_of(stack, 0)["a"], WorkerLost)
    assert stack.unheard() == []


def test_members_left_unanswered_are_lost_with_status_and_last_lines():
    assert ends_of(stack_of("a"), -9, output=["last words"])["a"].reason == (
        "the program of stack s (pid 100) was killed by SIGKILL\nlast words"
    )
    assert "exited with status 0 without an answer" in ends_of(stack_of("a"), 0)["a"].reason
    stack = stack_of("a", "b")
    stack.vanished(0, "its forkserver died")
    assert "its forkserver died" in ends_of(stack)["b"].reason


def test_what_the_program_raises_is_nobodys_fault():
    stack = stack_of("a", "b")
    stack.stop("b", "pruned")
    assert stack.message(0, {"kind": "raised", "at": 2.0, "error": "boom"}) == []
    assert stack.doomed
    for event in ends_of(stack, 1).values():
        assert event == WorkerLost(at=9.0, bundle_id=event.bundle_id, reason="the program of stack s raised\nboom")


def test_too_much_memory_is_that_of_all_who_were_in_it_by_their_parts():
    stack = Stack("s")
    for name, memory_bytes in (("a", 200), ("b", 400), ("late", 600)):
        stack.join(launch(name, memory_bytes))
    for name in "ab":
        stack.message(0, says("started", name))
    stack.excess = Excess(used_bytes=1500, limit_bytes=1200, on_host=False)
    assert stack.doomed
    ends = ends_of(stack, -9, killed=True)
    assert ends["a"] == MemoryExceeded(at=9.0, bundle_id="a", used_bytes=500, limit_bytes=200)
    assert ends["b"] == MemoryExceeded(at=9.0, bundle_id="b", used_bytes=1000, limit_bytes=400)
    assert isinstance(ends["late"], WorkerLost)


def test_memory_that_the_program_was_refused_is_too_much_for_all():
    stack = stack_of("a", "b", memory_bytes=300)
    stack.message(0, REFUSED)
    assert ends_of(stack, 1)["b"] == MemoryExceeded(at=9.0, bundle_id="b", used_bytes=450, limit_bytes=300)


def test_who_does_not_leave_in_time_ends_the_program_for_all():
    stack = stack_of("a", "b")
    stack.stop("a", "pruned")
    stack.overdue = "a"
    assert stack.doomed
    ends = ends_of(stack, -9, killed=True)
    assert ends["a"] == BundleStopped(at=9.0, bundle_id="a")
    assert "its member a was asked to stop and did not leave in time" in ends["b"].reason


def test_a_program_may_take_what_its_members_may_and_for_a_while_those_who_left():
    stack = stack_of("a", "b", memory_bytes=100)
    assert stack.limit(2.0) == Limit(200)
    stack.message(0, says("completed", "a", at=2.0, **COMPLETED))
    assert stack.limit(2.0 + GIVE_BACK_S / 2) == Limit(200)
    assert stack.limit(2.0 + GIVE_BACK_S) == Limit(100)
    stack.message(0, says("completed", "b", at=3.0, **COMPLETED))
    assert stack.limit(3.0) == Limit(0)


NAMES = st.sampled_from("abcd")
KINDS = st.sampled_from(["started", "reports", "saved", "completed", "stopped", "raised", "exceeded"])
HAPPENINGS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), NAMES),
        st.tuples(st.just("stop"), NAMES),
        st.tuples(st.just("message"), st.tuples(KINDS, NAMES, st.floats(0, 100))),
        st.tuples(st.just("program"), st.sampled_from(["raised", "exceeded"])),
        st.tuples(st.just("excess"), st.none()),
        st.tuples(st.just("overdue"), NAMES),
    ),
    max_size=30,
)
EXITS = st.one_of(st.none(), st.tuples(st.sampled_from([0, 1, -9]), st.booleans()))
EXTRA = {
    "reports": {"reports": [{"at": 1.0, "step": 1, "metrics": {}, "progress": 0.1}]},
    "saved": {"step": 1},
    "completed": COMPLETED,
    "stopped": PAUSED,
    "raised": {"error": "bad"},
    "exceeded": {"used_bytes": 9, "limit_bytes": 8, "on_host": False},
}


def play(stack, happening, joined):
    what, about = happening
    if what == "join" and about not in joined:
        joined.append(about)
        stack.join(launch(about, memory_bytes=100))
    elif what == "stop":
        stack.stop(about, "asked")
    elif what == "message":
        kind, name, at = about
        return stack.message(0, says(kind, name, at=at, **EXTRA.get(kind, {})))
    elif what == "program":
        return stack.message(0, {"kind": about, "at": 1.0, **EXTRA[about]})
    elif what == "excess":
        stack.excess = Excess(used_bytes=900, limit_bytes=400, on_host=False)
    elif what == "overdue":
        stack.overdue = about
    return []


@given(HAPPENINGS, EXITS)
def test_each_member_has_exactly_one_end_or_goes_to_another_program(happenings, end):
    stack, joined, events = Stack("s"), [], []
    for happening in happenings:
        events += play(stack, happening, joined)
    assert stack.verdict(50.0, []) == []
    if end is None:
        stack.vanished(0, "gone")
    else:
        stack.exited(0, *end)
    events += stack.verdict(50.0, [])
    again = [launch.bundle_id for launch in stack.unheard()]
    for name in joined:
        own = [event for event in events if event.bundle_id == name]
        ends = [isinstance(event, BUNDLE_ENDS) for event in own]
        assert ends == ([] if name in again else [False] * (len(own) - 1) + [True])
        assert [event.at for event in own] == sorted(event.at for event in own)
        assert sum(isinstance(event, BundleStarted) for event in own) <= 1
    assert {event.bundle_id for event in events} <= set(joined)
    assert not again or end[0] == 0
