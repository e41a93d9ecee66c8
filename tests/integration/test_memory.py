"""Bundles that take more than they were given: ended, given more, finished; and their neighbours unharmed."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.node import NodeCluster
from orchestrator.events import MemoryExceeded, NodeJoined, StageReported
from orchestrator.schema import Trial, TrialState
from tests.integration import memory_payloads
from tests.integration.live_loop import PATIENCE_S, ROOT, LiveLoop, stage_of
from tests.unit.cluster.launches import make_launch, wait_for

STEPS, NEIGHBOUR_STEPS = 20, 120
# So small a share that a raise is within what the machine has, whatever it has.
CLUSTER = {"devices_per_trial": 1, "share_per_trial": 0.01, "memory_per_trial_gib": 0.1}


def run(live: LiveLoop, *payloads: str) -> list[Trial]:
    """A study of one trial for each, to its end."""
    steps = {"mind_own_business": NEIGHBOUR_STEPS}
    stages = [stage_of(f"{memory_payloads.__name__}:{name}", name, steps.get(name, STEPS)) for name in payloads]
    live.submit("study-1", stages, CLUSTER)
    live.until(lambda: live.loop.finished("study-1"))
    return live.store.trials("study-1")


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveLoop]:
    """It gives a stage more memory once."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    made = LiveLoop(tmp_path, max_memory_raises=1)
    yield made
    made.close()


@pytest.mark.slow
def test_one_that_exceeds_its_grant_completes_on_a_larger_one_and_its_neighbour_never_notices(live: LiveLoop) -> None:
    greedy, neighbour = run(live, "grow_once", "mind_own_business")
    assert greedy.state is neighbour.state is TrialState.COMPLETED
    assert greedy.metrics["began_at"] > 0.0  # from its checkpoint
    lines = {
        key: [a for a in live.store.allocations() if a.stage_key == key] for key in ("grow_once", "mind_own_business")
    }
    first, second = lines["grow_once"]
    assert first.peak_memory_bytes > first.memory_bytes
    assert second.memory_bytes >= 1.5 * first.memory_bytes - 1
    assert neighbour.attempt == len(lines["mind_own_business"]) == 1
    # They did sit on the device at the same time.
    (alone,) = lines["mind_own_business"]
    assert alone.opened_at <= first.opened_at < second.opened_at < (alone.closed_at or 0.0)


@pytest.mark.slow
def test_one_that_never_has_enough_fails_and_says_what_it_would_need(live: LiveLoop) -> None:
    (greedy,) = run(live, "grow_always")
    assert greedy.state is TrialState.FAILED
    assert greedy.error.startswith("it took 0.")
    assert "raised 1 times (cluster.max_memory_raises=1); it needs about 0." in greedy.error
    assert "cluster.memory_per_trial_gib=0." in greedy.error
    assert [line.closed_at is not None for line in live.store.allocations()] == [True, True]


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A memory cgroup (v1) of this test's own."""
    folder = Path("/sys/fs/cgroup/memory/orchestrator-test")
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").read_text()
    except OSError:
        pytest.skip("needs a memory cgroup (v1) that may be written to")
    yield folder
    folder.rmdir()


@pytest.mark.slow
def test_one_that_the_kernel_kills_near_its_limit_was_ended_for_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cgroup: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    cluster = NodeCluster(home=tmp_path, artifacts=tmp_path / "artifacts", devices=1, python_path=[ROOT])
    cluster.start()
    try:
        (joined,) = cluster.poll(PATIENCE_S)
        assert isinstance(joined, NodeJoined)
        assert cluster._agent is not None
        assert cluster._agent._server is not None
        (cgroup / "cgroup.procs").write_text(str(cluster._agent._server.pid))  # and so whatever it forks
        launch = make_launch(joined.devices, bundle_id="jump")
        stage = replace(launch.stage, entrypoint=f"{memory_payloads.__name__}:jump")
        cluster.launch(replace(launch, stage=stage, placement=replace(launch.placement, memory_bytes=200 << 20)))
        wait_for(cluster, "jump", StageReported)
        used = int((cgroup / "memory.usage_in_bytes").read_text())
        (cgroup / "memory.limit_in_bytes").write_text(str(used + (15 << 20)))
        ended = wait_for(cluster, "jump")
    finally:
        cluster.close()
    assert isinstance(ended, MemoryExceeded)
    assert ended.used_bytes == ended.limit_bytes == 200 << 20
