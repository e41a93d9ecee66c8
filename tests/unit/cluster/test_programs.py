"""Stacks on a real forkserver: who joins which program, who leaves it alone, and what its end means for whom."""

import os
import signal
import time

import pytest

from cluster.agent import NodeAgent
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
from orchestrator.schema import DeviceKind
from tests.unit.cluster.launches import make_launch, make_member
from tests.unit.cluster.test_agent import gone, make_config

PATIENCE_S = 30.0


class Rig:
    """An agent, and the events of each bundle so far."""

    def __init__(self, config):
        self.config = config
        self.device = config.devices[0]
        self.agent = NodeAgent(config)
        self.events = {}

    def launch(self, *bundle_ids, **options):
        for bundle_id in bundle_ids:
            self.agent.launch(make_member(self.device, bundle_id, **options))

    def until(self, bundle_id, *kinds):
        """The first event of one of `kinds` of a bundle, also if it has come already."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for event in self.events.get(bundle_id, []):
                if isinstance(event, kinds):
                    return event
            for event in self.agent.poll(1.0):
                self.events.setdefault(getattr(event, "bundle_id", ""), []).append(event)
        raise AssertionError(f"{bundle_id} has only {self.events.get(bundle_id)}")

    def end(self, bundle_id):
        return self.until(bundle_id, *BUNDLE_ENDS)

    def pid(self, bundle_id):
        return int(self.until(bundle_id, StageReported).metrics["pid"])

    def log(self, bundle_id):
        return (self.config.logs / f"{bundle_id}.log").read_text()


@pytest.fixture
def rig(tmp_path):
    rig = Rig(make_config(tmp_path, stop_grace_s=1.0))
    rig.agent.start()
    yield rig
    rig.agent.close()
    assert list((rig.config.artifacts / "incoming").iterdir()) == []
    for events in rig.events.values():
        assert sum(isinstance(event, BUNDLE_ENDS) for event in events) <= 1


def test_two_members_share_a_program_and_each_completes(rig):
    rig.launch("a", steps=3)
    rig.launch("b", steps=5)
    assert rig.end("a").outcome.metrics == {"steps": 3.0}
    assert rig.end("b").outcome.metrics == {"steps": 5.0}
    assert rig.pid("a") == rig.pid("b")
    for name in "ab":
        kinds = [type(event) for event in rig.events[name]]
        assert (kinds[0], kinds[-2:]) == (BundleStarted, [StageSaved, StageCompleted])
        assert StageMeasured in kinds
        assert (rig.config.artifacts / "stages" / f"key-{name}" / "weights.bin").read_text() == name


def test_one_member_stops_alone_and_a_late_one_joins_the_running_program(rig):
    rig.launch("a", "b")
    pid = rig.pid("a")
    rig.pid("b")
    rig.agent.stop("a", "pruned")
    stopped = rig.end("a")
    assert isinstance(stopped, BundleStopped)
    assert stopped.busy_s == 0.125
    rig.launch("late", steps=2)
    assert isinstance(rig.end("late"), StageCompleted)
    assert rig.pid("late") == pid
    assert not any(isinstance(event, BUNDLE_ENDS) for event in rig.events["b"])


def test_a_member_that_comes_while_its_program_ends_gets_another_one(rig):
    rig.launch("a", program="once", pause_s=0.5)
    pid = rig.pid("a")
    rig.launch("b", program="once")
    assert isinstance(rig.end("a"), StageCompleted)
    assert isinstance(rig.end("b"), StageCompleted)
    assert rig.pid("b") != pid


def test_a_program_that_takes_nobody_in_is_lost(rig):
    rig.launch("a", program="leave")
    assert "exited with status 0 without an answer" in rig.end("a").reason


def test_an_empty_program_ends_and_the_next_member_starts_another(rig):
    rig.launch("a", steps=1)
    pid = rig.pid("a")
    assert isinstance(rig.end("a"), StageCompleted)
    assert gone(pid)
    rig.launch("b", steps=1)
    assert isinstance(rig.end("b"), StageCompleted)
    assert rig.pid("b") != pid


def test_a_killed_program_loses_all_its_members_with_its_last_words(rig):
    rig.launch("a", "b")
    rig.pid("b")
    os.kill(rig.pid("a"), signal.SIGKILL)
    for name in "ab":
        lost = rig.end(name)
        assert isinstance(lost, WorkerLost)
        assert lost.reason.splitlines()[0].endswith("was killed by SIGKILL")
        assert "b is in" in lost.reason


def test_what_a_program_raises_loses_all_and_a_later_member_starts_another(rig):
    rig.launch("a")
    rig.pid("a")
    rig.launch("b", raises=True)
    for name in "ab":
        assert rig.end(name).reason.splitlines()[-1] == "RuntimeError: the program is broken"
    rig.launch("c", steps=1)
    assert isinstance(rig.end("c"), StageCompleted)


def test_an_entrypoint_that_is_not_there_is_lost_too(rig):
    rig.launch("a", program="missing")
    assert "AttributeError" in rig.end("a").reason


def test_a_member_that_fails_leaves_the_others_alone(rig):
    rig.launch("a")
    rig.pid("a")
    rig.launch("b", fails=True)
    raised = rig.end("b")
    assert isinstance(raised, StageRaised)
    assert raised.error.splitlines()[-1] == "ValueError: the checkpoint is damaged"
    rig.launch("c", steps=1)
    assert isinstance(rig.end("c"), StageCompleted)
    assert rig.pid("c") == rig.pid("a")


def test_a_program_within_the_sum_of_its_members_memory_goes_on_and_one_beyond_is_ended(rig):
    if rig.device.kind is DeviceKind.CUDA:
        pytest.skip("on a GPU the allocator is the limit")
    rig.launch("a", memory_bytes=100 << 20)
    rig.launch("b", memory_bytes=200 << 20, takes_bytes=150 << 20)
    rig.pid("b")
    rig.launch("c", memory_bytes=100 << 20, takes_bytes=400 << 20)
    for name, given in (("a", 100), ("b", 200), ("c", 100)):
        exceeded = rig.end(name)
        assert isinstance(exceeded, MemoryExceeded)
        assert exceeded.used_bytes > exceeded.limit_bytes == given << 20
    assert rig.events["b"][-1].used_bytes == pytest.approx(2 * rig.events["a"][-1].used_bytes, abs=2)


def test_a_member_that_ignores_a_stop_ends_the_program(rig):
    rig.launch("a", deaf=True)
    rig.launch("b")
    rig.pid("a")
    rig.pid("b")
    rig.agent.stop("a", "pruned")
    assert isinstance(rig.end("a"), BundleStopped)
    assert "its member a was asked to stop" in rig.end("b").reason


def test_a_member_that_is_stopped_before_it_begins_never_does(rig):
    rig.launch("a", pause_s=0.5)
    rig.pid("a")
    rig.launch("b")
    rig.agent.stop("b", "cancelled")
    assert isinstance(rig.end("b"), BundleStopped)
    assert len(rig.events["b"]) == 1


def test_members_wait_for_the_preload_and_can_be_stopped_meanwhile(rig):
    rig.launch("a", "b")
    rig.agent.stop("a", "cancelled")
    assert isinstance(rig.end("a"), BundleStopped)
    assert rig.pid("b")


def test_a_dead_forkserver_loses_all_members_and_the_stack_goes_on_with_the_next(rig):
    rig.launch("a", "b")
    pid = rig.pid("a")
    rig.pid("b")
    os.kill(rig.agent._server.pid, signal.SIGKILL)
    for name in "ab":
        lost = rig.end(name)
        assert "its forkserver died" in lost.reason
        assert lost.blameless
    assert gone(pid)
    rig.launch("c", steps=1)
    assert isinstance(rig.end("c"), StageCompleted)


def test_large_joins_do_not_wait_for_a_program_that_does_not_listen(rig):
    rig.launch("a", pause_s=1.0, steps=2)
    rig.pid("a")
    names = [f"m{number}" for number in range(8)]
    rig.launch(*names, steps=1, text="x" * (1 << 18))
    rig.agent.launch(make_launch(rig.config.devices[-1:], bundle_id="solo"))
    assert isinstance(rig.end("solo"), StageCompleted)
    assert isinstance(rig.end(names[-1]), StageCompleted)
    assert {rig.pid(name) for name in names} == {rig.pid("a")}


def test_a_member_whose_config_is_no_plain_data_is_at_fault_alone(rig):
    rig.launch("a")
    rig.pid("a")
    rig.launch("b", lr=object())
    assert "object can't be sent to a worker" in rig.end("b").error
    rig.launch("c", steps=1)
    assert rig.pid("c") == rig.pid("a")


def test_every_member_has_the_programs_log_also_one_that_names_the_stack(rig):
    rig.launch("a", "b", steps=1, stack_id="a")
    rig.end("a")
    rig.end("b")
    assert rig.log("a") == rig.log("b")
    assert {"a is in", "b is in"} <= set(rig.log("a").splitlines())


def test_stacks_of_other_names_and_solo_bundles_have_processes_of_their_own(rig):
    rig.launch("a", stack_id="one")
    rig.launch("b", stack_id="two")
    assert rig.pid("a") != rig.pid("b")
