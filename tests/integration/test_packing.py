"""Stages packed onto one device: they take turns and change nothing of one another."""

import time
from pathlib import Path

import pytest

from cluster.node import NodeCluster
from cluster.outputs import Artifacts
from orchestrator.events import BundleEvent, BundleStarted, Launch, NodeJoined, StageCompleted
from orchestrator.schema import Device, Placement, Stage
from tests.unit.experiments.stage_runs import stage_data, write_problems

PATIENCE_S = 60.0
MEMORY_BYTES = 2**30


def launch_sft(cluster: NodeCluster, device: Device, problems: Path, key: str, share: float, seed: int) -> None:
    data = stage_data(problems, {"name": "sft", "max_steps": 150, "batch_size": 16}, seed=seed)
    stage = Stage(
        name="sft", key=key, parent_key="", entrypoint="experiments.stages.sft:run", config=data, budget_steps=150
    )
    placement = Placement(stage_key=key, device_ids=(device.device_id,), share=share, memory_bytes=MEMORY_BYTES)
    cluster.launch(
        Launch(
            bundle_id=key,
            study_id="study",
            stage=stage,
            trial_ids=(key,),
            placement=placement,
            devices=(device,),
            attempt=0,
        )
    )


def completed(cluster: NodeCluster, keys: set[str]) -> list[BundleEvent]:
    """The events of the bundles `keys`, once all of them have completed."""
    events: list[BundleEvent] = []
    deadline = time.monotonic() + PATIENCE_S
    while {event.bundle_id for event in events if isinstance(event, StageCompleted)} != keys:
        assert time.monotonic() < deadline, events[-3:]
        events += [event for event in cluster.poll(1.0) if not isinstance(event, NodeJoined)]
    return events


@pytest.mark.slow
def test_two_stages_that_share_a_core_end_as_one_that_has_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    problems = write_problems(tmp_path)
    artifacts = Artifacts(tmp_path / "artifacts")
    cluster = NodeCluster(home=tmp_path, artifacts=artifacts.root, devices=1, preload=["experiments.preload"])
    cluster.start()
    try:
        (joined,) = cluster.poll(PATIENCE_S)
        assert isinstance(joined, NodeJoined)
        (device,) = joined.devices
        launch_sft(cluster, device, problems, "alone", share=1.0, seed=0)
        completed(cluster, {"alone"})
        launch_sft(cluster, device, problems, "packed", share=0.5, seed=0)
        launch_sft(cluster, device, problems, "neighbour", share=0.5, seed=1)
        events = completed(cluster, {"packed", "neighbour"})
    finally:
        cluster.close()
    started = [event.at for event in events if isinstance(event, BundleStarted)]
    ended = [event.at for event in events if isinstance(event, StageCompleted)]
    assert max(started) < min(ended)  # they did run at the same time
    alone, packed, neighbour = (
        (artifacts.stage(key) / "model.safetensors").read_bytes() for key in ("alone", "packed", "neighbour")
    )
    assert packed == alone
    assert neighbour != alone
