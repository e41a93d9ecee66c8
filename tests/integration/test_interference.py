"""Two stages that are in each other's way on one core of this machine: measured, parted, and kept apart."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.channel import Channel
from orchestrator.interference import Interference, Rules
from orchestrator.schema import Assignment, Outcome, TrialState
from tests.integration.live_loop import LiveLoop, stage_of

CROWDED = f"{__name__}:crowded"
STEP_S, STEPS, SLOWER = 0.1, 200, 3.0
CLUSTER = {"devices_per_trial": 1, "share_per_trial": 0.5, "memory_per_trial_gib": 0.5}


def crowded(assignment: Assignment, channel: Channel) -> Outcome:
    """Each step takes `SLOWER` times as long while somebody else steps here too."""
    place = Path(assignment.cache_dir, "crowd")
    place.mkdir(parents=True, exist_ok=True)
    mine, state = place / assignment.bundle_id, Path(assignment.checkpoint_dir, "step")
    first = int(state.read_text()) if state.exists() else 0
    for step in range(first + 1, STEPS + 1):
        mine.touch()
        others = [other for other in place.iterdir() if other != mine and time.time() - other.stat().st_mtime < 1.0]
        time.sleep(STEP_S * (SLOWER if others else 1.0))
        channel.report(step, {"train/loss": 1.0 / step}, step / STEPS)
        if channel.stop_requested():
            state.write_text(str(step))
            return Outcome(finished=False)
    return Outcome(metrics={"began_at": float(first)})


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveLoop]:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    made = LiveLoop(tmp_path)
    made.loop.state.interference = Interference(Rules(slice_s=1.0))
    yield made
    made.close()


@pytest.mark.slow
def test_two_that_get_through_less_together_than_one_after_the_other_are_parted_and_kept_apart(live: LiveLoop) -> None:
    live.submit("first", [stage_of(CROWDED, "first", STEPS)], CLUSTER)
    live.until(lambda: any(bundle.progress > 0.3 for bundle in live.loop.state.bundles.values()))
    live.submit("second", [stage_of(CROWDED, "second", STEPS)], CLUSTER)
    live.until(lambda: live.loop.finished("first") and live.loop.finished("second"))
    (found,) = live.loop.state.interference.table()
    assert found.slowdowns[0].mean == pytest.approx(SLOWER, rel=0.25)
    assert live.loop.state.interference.conflicts() == {"crowded": ("crowded",)}
    (second,) = live.store.trials("second")
    assert (second.state, second.preemptions) == (TrialState.COMPLETED, 0)
    assert second.metrics["began_at"] > 0.0
    (first_line,) = live.store.allocations("first")
    before, after = live.store.allocations("second")
    assert before.closed_at is not None
    assert first_line.closed_at is not None
    assert before.closed_at < first_line.closed_at <= after.opened_at
