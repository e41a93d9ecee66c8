"""The pure state machine of a bundle's processes: which causes win, and that reports wait for the start."""

from cluster.bundle import Bundle, RankProcess
from orchestrator.events import (
    BundleStarted,
    BundleStopped,
    StageCompleted,
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


def test_one_process_to_completion():
    bundle = make(1)
    assert bundle.message(0, STARTED) == [BundleStarted(at=1.0, bundle_id="b")]
    assert bundle.message(0, REPORTS) == [
        StageReported(at=2.0, bundle_id="b", step=1, metrics={"loss": 0.5}, progress=0.25)
    ]
    assert bundle.message(0, COMPLETED) == []
    assert bundle.verdict(4.0, []) is None
    bundle.exited(0, 0, killed=False)
    outcome = Outcome(metrics={"loss": 0.1}, busy_s=2.0)
    assert bundle.verdict(4.0, []) == StageCompleted(at=4.0, bundle_id="b", outcome=outcome)


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
    assert bundle.verdict(3.0, ["last words"]) == WorkerLost(
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
    assert bundle.verdict(3.0, []) == StageRaised(at=3.0, bundle_id="b", error="cause")


def test_memory_is_the_reason_if_it_was_ours():
    bundle = make(1)
    bundle.kill_reason = "over its limit"
    assert bundle.doomed
    bundle.exited(0, -9, killed=True)
    assert bundle.verdict(3.0, []) == WorkerLost(at=3.0, bundle_id="b", reason="over its limit")


def test_an_exit_without_an_answer():
    bundle = make(1)
    bundle.exited(0, 3, killed=False)
    assert bundle.verdict(3.0, []).reason == "rank 0 (pid 100) exited with status 3 without an answer"


def test_stopped_by_its_own_answer_and_by_force():
    bundle = make(1)
    bundle.stop_reason = "pruned"
    bundle.message(0, STOPPED)
    bundle.exited(0, 0, killed=False)
    assert bundle.verdict(3.0, []) == BundleStopped(at=3.0, bundle_id="b", busy_s=1.5)
    bundle = make(1)
    bundle.stop_reason = "pruned"
    bundle.exited(0, -9, killed=True)
    assert bundle.verdict(3.0, []) == BundleStopped(at=3.0, bundle_id="b", busy_s=0.0)


def test_unfinished_although_nobody_asked():
    bundle = make(1)
    bundle.message(0, STOPPED)
    bundle.exited(0, 0, killed=False)
    assert "finished=False" in bundle.verdict(3.0, []).error


def test_a_committed_output_counts_even_if_nobody_saw_the_exit():
    bundle = make(1)
    bundle.message(0, COMPLETED)
    bundle.vanished(0, "its forkserver died")
    assert isinstance(bundle.verdict(3.0, []), StageCompleted)
