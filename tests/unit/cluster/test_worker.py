"""What a worker process does around a stage: limits before it, reports and requests during it."""

import socket
import sys
from types import SimpleNamespace

import pytest

from cluster import wire, worker
from cluster.agent_line import AgentLine, WorkerChannel
from orchestrator.schema import CUDA_CONTEXT_BYTES, Assignment, DeviceKind, Outcome, Stage

TOTAL_BYTES = 80 << 30


class FakeTorch:
    """As much of torch as is told about limits; `said` is what it was told."""

    def __init__(self):
        self.said = []
        self.cuda = SimpleNamespace(
            get_device_properties=lambda device: SimpleNamespace(total_memory=TOTAL_BYTES),
            set_per_process_memory_fraction=lambda fraction, device: self.said.append((fraction, device)),
        )

    def set_num_threads(self, threads):
        self.said.append(threads)


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def assignment(kind, memory_bytes=0, entrypoint="", rank=0):
    return Assignment(
        bundle_id="b",
        stage=Stage(name="s", key="k", parent_key="", entrypoint=entrypoint, config={}, budget_steps=1),
        output_dir="",
        parent_dir="",
        checkpoint_dir="",
        cache_dir="",
        device_kind=kind,
        device_indexes=(3,),
        share=0.5,
        threads=2,
        memory_bytes=memory_bytes,
        rank=rank,
    )


@pytest.mark.parametrize(
    ("kind", "memory_bytes", "said"),
    [
        (DeviceKind.CUDA, (20 << 30) + CUDA_CONTEXT_BYTES, [2, (0.25, 0)]),  # its only visible device is number 0
        (DeviceKind.CUDA, 2 * TOTAL_BYTES, [2, (1.0, 0)]),
        (DeviceKind.CUDA, CUDA_CONTEXT_BYTES // 2, [2, (0.0, 0)]),
        (DeviceKind.CUDA, 0, [2]),
        (DeviceKind.CPU, 20 << 30, [2]),
    ],
)
def test_torch_is_held_to_the_bundles_threads_and_gpu_memory(monkeypatch, ends, tmp_path, kind, memory_bytes, said):
    torch = FakeTorch()
    monkeypatch.setitem(sys.modules, "torch", torch)
    worker.run(ends[1], assignment(kind, memory_bytes, f"{__name__}:unfinished"), None, tmp_path / "log")
    assert torch.said == said


def unfinished(assignment, channel):
    return Outcome(finished=False)


def messages(connection):
    return wire.LineBuffer().feed(connection.recv(1 << 16))


def channel_over(connection, rank=0):
    return WorkerChannel(AgentLine(connection), "b", rank)


def test_reports_are_buffered_between_flushes(ends):
    channel = channel_over(ends[1])
    for step in range(3):
        channel.report(step, {"train/loss": 1.0}, 0.1)
    channel.saved(2)
    sent = messages(ends[0])
    assert [[report["step"] for report in message["reports"]] for message in sent[:-1]] == [[0], [1, 2]]


def test_a_checkpoint_is_told_at_once_behind_the_reports_before_it(ends):
    channel = channel_over(ends[1])
    channel.report(0, {"train/loss": 1.0}, 0.1)
    channel.report(1, {"train/loss": 1.0}, 0.2)
    channel.saved(1)
    assert [message["kind"] for message in messages(ends[0])] == ["reports", "reports", "saved"]


def test_only_rank_0_of_a_gang_reports(ends):
    channel = channel_over(ends[1], rank=1)
    channel.report(0, {"train/loss": 1.0}, 0.1)
    channel.saved(0)
    ends[0].setblocking(False)
    with pytest.raises(BlockingIOError):
        ends[0].recv(1)


def test_a_stop_is_heard_once_it_is_asked_for(ends):
    channel = channel_over(ends[1])
    assert not channel.stop_requested()
    ends[0].sendall(wire.encode({"kind": "stop", "bundle_id": "b"}))
    assert channel.stop_requested()
    assert channel.stop_requested()


def test_an_agent_that_is_gone_counts_as_a_stop(ends):
    ends[0].close()
    assert channel_over(ends[1]).stop_requested()


@pytest.mark.parametrize("entrypoint", ["no_colon", "module:", ":name"])
def test_an_entrypoint_of_another_form_is_refused(entrypoint):
    with pytest.raises(ValueError, match=r"is not of the form package\.module:function"):
        worker.resolve(entrypoint)
