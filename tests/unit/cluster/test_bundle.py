"""The pure state machine of a bundle's processes: which causes win, and that reports wait for the start."""

from cluster.bundle import Bundle, RankProcess
from cluster.memory import Excess
from orchestrator.events import (
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
from orchestrator.schema import Outcome

STARTED = {"kind": "started", "at": 1.0}
REPORTS = {"kind": "reports", "reports": [{"at": 2.0, "step": 1, "metrics": {"loss": 0.5}, "progress": 0.25}]}
COMPLETED = {"kind": "completed", "at": 3.0, "outcome": {"metrics": {"loss": 0.1}, "busy_s": 2.0}}
STOPPED = {"kind": "stopped", "at": 3.0, "outcome": {"metrics": {}, "busy_s": 1.5, "finished": False}}


def raised(error, at):
    return {"kind": "raised", "at": at, "error": error}


def make(ranks):
    bundle = Bundle("b", [RankProcess(rank) for rank in range(ranks)])
    for rank in range(ranks):
        bundle.spawned(rank, 100 + rank)
    return bundle


def end_of(bundle, output=()):
    (event,) = bundle.verdict(3.0, list(output))
    return event


def test_one_process_to_completion():
    bundle = make(1)
    assert bundle.message(0, STARTED) == [BundleStarted(at=1.0, bundle_id="b")]
    assert bundle.message(0, REPORTS) == [
        StageReported(at=2.0, bundle_id="b", step=1, metrics={"loss": 0.5}, progress=0.25)
    ]
    assert bundle.message(0, COMPLETED) == []
    assert bundle.verdict(4.0, []) == []
    bundle.exited(0, 0, killed=False)
    outcome = Outcome(metrics={"loss": 0.1}, busy_s=2.0)
    assert bundle.verdict(4.0, []) == [StageCompleted(at=4.0, bundle_id="b", outcome=outcome)]


def test_a_gang_has_started_once_all_have_and_reports_wait_for_that():
    bundle = make(2)
    assert bundle.message(0, STARTED) == []
    assert bundle.message(0, REPORTS) == []
    assert [type(e) for e in bundle.message(1, {"kind": "started", "at": 1.5})] == [BundleStarted, StageReported]


def test_a_checkpoint_is_told_in_its_place_and_waits_for_the_start_too():
    bundle = make(2)
    bundle.message(0, STARTED)
    bundle.message(0, REPORTS)
    assert bundle.message(0, {"kind": "saved", "at": 2.5, "step": 1}) == []
    events = bundle.message(1, {"kind": "started", "at": 1.5})
    assert [type(e) for e in events] == [BundleStarted, StageReported, StageSaved]
    assert events[-1] == StageSaved(at=2.5, bundle_id="b", step=1)


def test_time_never_goes_back_within_a_bundle():
    bundle = make(1)
    bundle.message(0, {"kind": "started", "at": 9.0})
    assert bundle.message(0, REPORTS)[0].at == 9.0


def test_a_loss_explains_what_the_peers_raise():
    bundle = make(2)
    bundle.message(0, raised("connection closed by peer", 2.0))
    assert bundle.doomed
    bundle.exited(0, 1, killed=False)
    bundle.exited(1, -9, killed=False)
    assert end_of(bundle, ["last words"]) == WorkerLost(
        at=3.0, bundle_id="b", reason="rank 1 (pid 101) was killed by SIGKILL\nlast words"
    )


def test_the_first_to_raise_is_quoted_and_the_rest_were_killed_by_us():
    bundle = make(3)
    bundle.message(2, raised("cause", 2.0))
    bundle.message(0, raised("consequence", 2.1))
    bundle.exited(2, 1, killed=False)
    bundle.exited(0, 1, killed=False)
    assert [process.rank for process in bundle.running()] == [1]
    bundle.exited(1, -9, killed=True)
    assert end_of(bundle) == StageRaised(at=3.0, bundle_id="b", error="cause")


def test_memory_is_the_reason_if_it_was_ended_for_it():
    bundle = make(1)
    bundle.excess = Excess(used_bytes=3, limit_bytes=2, on_host=True)
    assert bundle.doomed
    bundle.exited(0, -9, killed=True)
    assert end_of(bundle) == MemoryExceeded(at=3.0, bundle_id="b", used_bytes=3, limit_bytes=2, on_host=True)


def test_memory_that_one_rank_was_refused_explains_what_its_peers_raise_and_die_of():
    bundle = make(3)
    bundle.message(0, raised("connection closed by peer", 2.0))
    bundle.message(1, {"kind": "exceeded", "at": 2.1, "used_bytes": 9, "limit_bytes": 8, "on_host": False})
    assert bundle.doomed
    bundle.exited(0, 1, killed=False)
    bundle.exited(1, 1, killed=False)
    bundle.exited(2, -6, killed=False)
    assert end_of(bundle) == MemoryExceeded(at=3.0, bundle_id="b", used_bytes=9, limit_bytes=8)


def test_an_exit_without_an_answer():
    bundle = make(1)
    bundle.exited(0, 3, killed=False)
    assert end_of(bundle).reason == "rank 0 (pid 100) exited with status 3 without an answer"


def test_stopped_by_its_own_answer_and_by_force():
    bundle = make(1)
    bundle.stop_reason = "pruned"
    bundle.message(0, STOPPED)
    bundle.exited(0, 0, killed=False)
    assert end_of(bundle) == BundleStopped(at=3.0, bundle_id="b", busy_s=1.5)
    bundle = make(1)
    bundle.stop_reason = "pruned"
    bundle.exited(0, -9, killed=True)
    assert end_of(bundle) == BundleStopped(at=3.0, bundle_id="b", busy_s=0.0)


def test_unfinished_although_nobody_asked():
    bundle = make(1)
    bundle.message(0, STOPPED)
    bundle.exited(0, 0, killed=False)
    assert "finished=False" in end_of(bundle).error


def test_a_committed_output_counts_even_if_nobody_saw_the_exit():
    bundle = make(1)
    bundle.message(0, COMPLETED)
    bundle.vanished(0, "its forkserver died")
    assert isinstance(end_of(bundle), StageCompleted)


def measured(memory_bytes, utilisation, at=2.0):
    return {
        "kind": "measured",
        "at": at,
        "memory_bytes": memory_bytes,
        "host_memory_bytes": 2 * memory_bytes,
        "utilisation": utilisation,
    }


def test_what_a_process_takes_is_told_at_once():
    bundle = make(1)
    bundle.message(0, STARTED)
    assert bundle.message(0, measured(100, 0.5)) == [
        StageMeasured(at=2.0, bundle_id="b", memory_bytes=100, host_memory_bytes=200, utilisation=0.5)
    ]


def test_a_gang_takes_of_each_device_what_its_largest_process_takes_and_of_the_host_what_all_do():
    bundle = make(2)
    for rank in range(2):
        bundle.message(rank, STARTED)
    assert bundle.message(0, measured(100, 0.5)) == []
    assert bundle.message(1, measured(300, 1.0, at=3.0)) == [
        StageMeasured(at=3.0, bundle_id="b", memory_bytes=300, host_memory_bytes=800, utilisation=0.75)
    ]
    assert bundle.message(0, measured(400, 0.5, at=4.0)) == [
        StageMeasured(at=4.0, bundle_id="b", memory_bytes=400, host_memory_bytes=1400, utilisation=0.75)
    ]


def test_a_gang_is_as_well_known_as_the_least_known_of_its_processes():
    bundle = make(2)
    for rank in range(2):
        bundle.message(rank, STARTED)
    bundle.message(0, measured(100, None))
    (event,) = bundle.message(1, measured(100, 1.0))
    assert event.utilisation is None
