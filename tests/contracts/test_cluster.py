"""The contract of `ports.Cluster`: one suite, inherited by every implementation.

`ClusterContract` holds for all of them, `ProcessContract` for those that run bundles in processes of their own.
"""

import ast
import itertools
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import ray

from cluster.local import LocalCluster
from cluster.node import NodeCluster
from cluster.outputs import Artifacts
from cluster.ray import RayCluster
from cluster.simulated import Script, SimulatedCluster
from orchestrator.events import (
    BUNDLE_ENDS,
    BundleStarted,
    BundleStopped,
    Event,
    Launch,
    MemoryExceeded,
    NodeJoined,
    NodeLost,
    StageCompleted,
    StageRaised,
    StageReported,
    StageSaved,
    WorkerLost,
)
from orchestrator.ports import Cluster, ClusterUnavailable
from orchestrator.schema import Device, DeviceKind, Outcome, Placement, Stage
from tests.contracts import cluster_payloads, fused_payloads

PAYLOADS = (str(Path(cluster_payloads.__file__).parents[2]),)
PATIENCE_S = 60.0
STOP_GRACE_S = 0.5


@dataclass
class Rig:
    """A started cluster, its devices, and the events of each bundle so far."""

    cluster: Cluster
    artifacts: Artifacts
    devices: tuple[Device, ...] = ()
    events: dict[str, list[Event]] = field(default_factory=dict)
    nodes: list[Event] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def start(self) -> "Rig":
        self.cluster.start()
        while not self.devices:
            self.poll(PATIENCE_S)
        return self

    def restart(self) -> None:
        self.cluster.close()
        self.devices = ()
        self.start()

    def poll(self, timeout_s: float) -> list[Event]:
        events = self.cluster.poll(timeout_s)
        for event in events:
            if isinstance(event, NodeJoined):
                self.devices = event.devices
            if isinstance(event, NodeJoined | NodeLost):
                self.nodes.append(event)
            else:
                self.events.setdefault(event.bundle_id, []).append(event)
        return events

    def launch(
        self,
        payload: str,
        *,
        key: str = "",
        parent_key: str = "",
        devices: int = 1,
        memory_bytes: int = 0,
        warm: tuple[str, int] = ("", 0),
        stack_id: str = "",
        **config: object,
    ) -> Launch:
        number = next(self.numbers)
        key = key or f"key{number}"
        chosen = self.devices[:devices]
        launch = Launch(
            bundle_id=f"bundle{number}",
            study_id="study",
            stage=Stage(
                name="stage",
                key=key,
                parent_key=parent_key,
                entrypoint=f"{cluster_payloads.__name__}:{payload}",
                config={"nested": {"lr": 1e-3}, "names": ["a"], **config},
                budget_steps=cluster_payloads.POINTS,
                warm_from=warm[0],
                warm_step=warm[1],
                fused_entrypoint=f"{fused_payloads.__name__}:run",
            ),
            trial_ids=("trial",),
            placement=Placement(
                stage_key=key,
                device_ids=tuple(d.device_id for d in chosen),
                share=1.0,
                memory_bytes=memory_bytes,
                stack_id=stack_id,
            ),
            devices=chosen,
            attempt=0,
        )
        self.cluster.launch(launch)
        return launch

    def until(self, launch: Launch, *kinds: type) -> list[Event]:
        """The bundle's events, once one of `kinds` is among them."""
        deadline = time.monotonic() + PATIENCE_S
        while not any(isinstance(e, kinds) for e in self.events.get(launch.bundle_id, [])):
            assert time.monotonic() < deadline, f"{launch.bundle_id} has only {self.events.get(launch.bundle_id)}"
            self.poll(5.0)
        return self.events[launch.bundle_id]

    def to_the_end(self, launch: Launch) -> list[Event]:
        return self.until(launch, *BUNDLE_ENDS)


def first_report(events: list[Event]) -> StageReported:
    return next(event for event in events if isinstance(event, StageReported))


class ClusterContract:
    """What holds for every cluster."""

    @pytest.fixture(scope="class")
    @classmethod
    def rig(cls, tmp_path_factory) -> Iterator[Rig]:
        home = tmp_path_factory.mktemp("home")
        rig = Rig(cls.make(home), Artifacts(home / "artifacts")).start()
        yield rig
        rig.cluster.close()
        rig.cluster.close()  # safe to call twice
        cls.check_closed(home)

    @classmethod
    def make(cls, home: Path) -> Cluster:
        raise NotImplementedError

    @classmethod
    def check_closed(cls, home: Path) -> None:
        pass

    def damage(self, rig: Rig, key: str) -> None:
        path = rig.artifacts.stage(key) / "weights.bin"
        data = bytearray(path.read_bytes())
        data[7] ^= 1
        path.write_bytes(data)

    def test_what_can_be_had_passes_the_check_and_is_still_there(self, rig):
        rig.cluster.check()
        rig.to_the_end(rig.launch("succeed"))

    def test_start_joins_a_node_with_its_devices(self, rig):
        assert isinstance(rig.nodes[0], NodeJoined)
        assert len({device.index for device in rig.devices}) == len(rig.devices) > 0
        assert all(device.node_id == rig.nodes[0].node_id and device.memory_bytes > 0 for device in rig.devices)

    def test_a_node_has_cores_and_memory_for_its_devices(self, rig):
        assert rig.nodes[0].cpus >= 1
        assert rig.nodes[0].host_memory_bytes > 0

    def test_checkpoints_are_told_between_the_reports_that_they_came_between(self, rig):
        events = rig.to_the_end(rig.launch("save"))
        steps = [(type(e), e.step) for e in events[1:-1]]
        assert steps == [(StageReported, 1), (StageSaved, 1), (StageReported, 2), (StageSaved, 2), (StageReported, 3)]

    def test_a_stage_without_a_checkpoint_has_none_to_keep(self, rig):
        assert rig.cluster.keep_checkpoint("study", "never ran") is None

    def test_the_same_checkpoint_is_kept_under_the_same_name(self, rig):
        launch = rig.launch("save")
        rig.to_the_end(launch)
        name, step = rig.cluster.keep_checkpoint("study", launch.stage.key)
        assert "/" not in name
        assert step >= max(cluster_payloads.SAVES)
        assert rig.cluster.keep_checkpoint("study", launch.stage.key) == (name, step)
        assert rig.cluster.keep_checkpoint("another study", launch.stage.key) is None

    def test_a_warm_stage_starts_from_the_kept_checkpoint(self, rig):
        parent = rig.launch("save")
        rig.to_the_end(parent)
        kept = rig.cluster.keep_checkpoint("study", parent.stage.key)
        events = rig.to_the_end(rig.launch("save", warm=kept))
        assert [e.step for e in events if isinstance(e, StageReported)] == list(
            range(kept[1], cluster_payloads.POINTS + 1)
        )
        assert isinstance(events[-1], StageCompleted)

    def test_a_closed_cluster_starts_again_and_knows_nothing_of_what_ran(self, rig):
        before = rig.launch("until_stopped")
        rig.restart()
        heard = len(rig.events.get(before.bundle_id, []))
        rig.cluster.stop(before.bundle_id, "from another life")
        assert isinstance(rig.to_the_end(rig.launch("succeed"))[-1], StageCompleted)
        assert len(rig.events.get(before.bundle_id, [])) == heard

    def test_a_bundle_starts_reports_and_completes(self, rig):
        launch = rig.launch("succeed")
        events = rig.to_the_end(launch)
        assert [type(e) for e in events] == [BundleStarted] + [StageReported] * 3 + [StageCompleted]
        reports = events[1:-1]
        assert [report.step for report in reports] == [1, 2, 3]
        assert reports[1].metrics == {"train/loss": 0.5}
        assert reports[-1].progress == 1.0
        assert [e.at for e in events] == sorted(e.at for e in events)
        assert events[-1].outcome.metrics == {"eval/accuracy": 0.5}

    def test_output_is_available_once_completed(self, rig):
        launch = rig.launch("succeed")
        assert rig.cluster.available_outputs([launch.stage.key]) == set()
        rig.to_the_end(launch)
        assert rig.cluster.available_outputs([launch.stage.key, "absent"]) == {launch.stage.key}

    def test_a_damaged_output_is_not_available(self, rig):
        launch = rig.launch("succeed")
        rig.to_the_end(launch)
        self.damage(rig, launch.stage.key)
        assert rig.cluster.available_outputs([launch.stage.key]) == set()
        rig.to_the_end(rig.launch("succeed", key=launch.stage.key))
        assert rig.cluster.available_outputs([launch.stage.key]) == {launch.stage.key}

    def test_a_stage_that_raises(self, rig):
        launch = rig.launch("fail")
        last = rig.to_the_end(launch)[-1]
        assert isinstance(last, StageRaised)
        assert last.error.splitlines()[-1] == "ValueError: the loss is not a number"
        assert rig.cluster.available_outputs([launch.stage.key]) == set()

    def test_memory_that_is_refused_is_memory_exceeded_with_what_was_asked_for(self, rig):
        launch = rig.launch("ask_for_too_much", memory_bytes=cluster_payloads.GRANTED)
        last = rig.to_the_end(launch)[-1]
        assert isinstance(last, MemoryExceeded)
        assert last.limit_bytes == cluster_payloads.GRANTED
        assert last.used_bytes >= cluster_payloads.TOO_MUCH
        assert rig.cluster.available_outputs([launch.stage.key]) == set()

    def test_stop_ends_a_bundle_without_output(self, rig):
        launch = rig.launch("until_stopped")
        rig.cluster.stop(launch.bundle_id, "pruned")
        rig.cluster.stop(launch.bundle_id, "pruned twice")
        assert isinstance(rig.to_the_end(launch)[-1], BundleStopped)
        assert rig.cluster.available_outputs([launch.stage.key]) == set()

    def test_stop_of_unknown_and_ended_bundles_is_ignored(self, rig):
        launch = rig.launch("succeed")
        rig.to_the_end(launch)
        rig.cluster.stop(launch.bundle_id, "too late")
        rig.cluster.stop("never heard of", "why not")
        assert rig.poll(0.3) == []

    def test_one_terminal_event_and_nothing_after_it(self, rig):
        for payload in ("succeed", "fail", "succeed"):
            rig.to_the_end(rig.launch(payload))
        rig.poll(0.3)
        for events in rig.events.values():
            assert [isinstance(e, BUNDLE_ENDS) for e in events].index(True) == len(events) - 1

    def test_poll_waits_no_longer_than_told(self, rig):
        assert rig.poll(0.0) == []
        assert rig.poll(0.05) == []


class ProcessContract(ClusterContract):
    """What holds where bundles have processes, files and limits."""

    @classmethod
    def check_closed(cls, home: Path) -> None:
        assert not list(home.glob("artifacts/incoming/*"))

    def test_output_holds_the_files_and_the_parent_reads_them(self, rig):
        parent = rig.launch("succeed")
        outcome = rig.to_the_end(parent)[-1].outcome
        assert outcome == Outcome(metrics={"eval/accuracy": 0.5}, busy_s=0.25, peak_memory_bytes=1234)
        child = rig.launch("copy_parent", parent_key=parent.stage.key)
        assert rig.to_the_end(child)[-1].outcome.metrics == {"bytes": 4096.0}
        assert len((rig.artifacts.stage(child.stage.key) / "copy.bin").read_bytes()) == 4096

    def test_a_killed_process_is_a_lost_worker(self, rig):
        launch = rig.launch("kill_itself")
        last = rig.to_the_end(launch)[-1]
        assert isinstance(last, WorkerLost)
        assert "SIGKILL" in last.reason

    def test_stop_after_the_start_leaves_a_checkpoint(self, rig):
        launch = rig.launch("until_stopped")
        rig.until(launch, StageReported)
        rig.cluster.stop(launch.bundle_id, "preempted")
        assert rig.to_the_end(launch)[-1].busy_s == 0.125
        assert int((rig.artifacts.checkpoint(launch.study_id, launch.stage.key) / "step").read_text()) > 0

    def test_a_bundle_that_ignores_a_stop_is_killed(self, rig):
        launch = rig.launch("deaf")
        rig.until(launch, BundleStarted)
        rig.cluster.stop(launch.bundle_id, "pruned")
        assert isinstance(rig.to_the_end(launch)[-1], BundleStopped)

    def test_unfinished_without_being_asked_is_the_stages_fault(self, rig):
        last = rig.to_the_end(rig.launch("unasked"))[-1]
        assert isinstance(last, StageRaised)
        assert "finished=False" in last.error

    def test_an_entrypoint_that_is_not_there_or_returns_something_else(self, rig):
        assert "AttributeError" in rig.to_the_end(rig.launch("missing"))[-1].error
        assert "instead of an Outcome" in rig.to_the_end(rig.launch("not_an_outcome"))[-1].error

    def test_a_gang_meets_and_answers_once(self, rig):
        if len(rig.devices) < 2:
            pytest.skip("one device only")
        launch = rig.launch("meet", devices=2)
        events = rig.to_the_end(launch)
        assert [type(e) for e in events] == [BundleStarted, StageReported, StageCompleted]
        lines = (rig.artifacts.stage(launch.stage.key) / "gang.txt").read_text().split("\n")
        ranks = sorted(tuple(map(int, line.split())) for line in lines if line)
        assert [rank for rank, *_ in ranks] == [0, 1]
        assert [index for _, index, _ in ranks] == [device.index for device in launch.devices]
        assert ranks[0][2] != ranks[1][2]

    def test_one_dead_rank_ends_its_gang(self, rig):
        if len(rig.devices) < 2:
            pytest.skip("one device only")
        last = rig.to_the_end(rig.launch("last_rank_dies", devices=2))[-1]
        assert isinstance(last, WorkerLost)
        assert last.reason.startswith("rank 1 ")

    def test_a_bundle_over_its_memory_is_ended_with_both_numbers(self, rig):
        if rig.devices[0].kind is DeviceKind.CUDA:
            pytest.skip("on a GPU the allocator is the limit")
        last = rig.to_the_end(rig.launch("grow", memory_bytes=200 << 20))[-1]
        assert isinstance(last, MemoryExceeded)
        assert last.used_bytes > last.limit_bytes == 200 << 20
        assert not last.on_host

    def test_a_bundle_over_its_memory_harms_no_neighbour(self, rig):
        if rig.devices[0].kind is DeviceKind.CUDA:
            pytest.skip("on a GPU the allocator is the limit")
        neighbour = rig.launch("until_stopped", memory_bytes=200 << 20)
        rig.until(neighbour, StageReported)
        rig.to_the_end(rig.launch("grow", memory_bytes=200 << 20))
        rig.cluster.stop(neighbour.bundle_id, "seen enough")
        assert isinstance(rig.to_the_end(neighbour)[-1], BundleStopped)

    def test_members_of_a_stack_share_a_process_and_leave_it_one_by_one(self, rig):
        stopped, done = (rig.launch("succeed", stack_id="stack", steps=steps) for steps in (0, 3))
        assert isinstance(rig.to_the_end(done)[-1], StageCompleted)
        assert rig.cluster.available_outputs([done.stage.key]) == {done.stage.key}
        late = rig.launch("succeed", stack_id="stack", steps=2)
        rig.to_the_end(late)
        rig.cluster.stop(stopped.bundle_id, "pruned")
        assert isinstance(rig.to_the_end(stopped)[-1], BundleStopped)
        reports = [first_report(rig.until(launch, StageReported)) for launch in (stopped, done, late)]
        assert len({report.metrics["pid"] for report in reports}) == 1

    def test_a_killed_stack_loses_its_members_and_goes_on_with_the_next(self, rig):
        launches = [rig.launch("succeed", stack_id="killed") for _ in range(2)]
        pids = {int(first_report(rig.until(launch, StageReported)).metrics["pid"]) for launch in launches}
        os.kill(pids.pop(), signal.SIGKILL)
        assert not pids
        assert all(isinstance(rig.to_the_end(launch)[-1], WorkerLost) for launch in launches)
        assert isinstance(rig.to_the_end(rig.launch("succeed", stack_id="killed", steps=1))[-1], StageCompleted)

    def test_a_process_sits_on_its_device_in_a_session_of_its_own(self, rig):
        launch = rig.launch("write_place")
        rig.to_the_end(launch)
        place = ast.literal_eval((rig.artifacts.stage(launch.stage.key) / "place.txt").read_text())
        assert place["session_leader"]
        assert not place["sigint_blocked"]
        assert place["oom_score"] >= 500
        if launch.devices[0].kind is DeviceKind.CUDA:
            assert place["gpus"] == str(launch.devices[0].index)
        else:
            assert place["threads"] == "1"
            assert place["gpus"] == ""
            if hasattr(os, "sched_getaffinity"):
                assert place["cores"] == [sorted(os.sched_getaffinity(0))[0]]
        log = rig.artifacts.root.parent / "logs" / f"{launch.bundle_id}.log"
        assert "printed by the stage" in log.read_text()

    def test_a_stage_key_that_is_no_file_name_is_refused(self, rig):
        assert isinstance(rig.to_the_end(rig.launch("succeed", key="../outside"))[-1], StageRaised)

    def test_more_devices_than_exist(self, tmp_path):
        with pytest.raises(ClusterUnavailable, match=r"cluster\.devices=4096: there are \d+ .* choose 1 to \d+, or 0"):
            self.make(tmp_path, devices=4096).check()


class TestLocalCluster(ClusterContract):
    @classmethod
    def make(cls, home: Path) -> Cluster:
        return LocalCluster(home=home, artifacts=home / "artifacts", devices=1)

    def test_members_of_a_stack_run_one_after_another(self, rig):
        for launch in [rig.launch("succeed", stack_id="stack") for _ in range(2)]:
            assert rig.to_the_end(launch)[-1].outcome.metrics == {"eval/accuracy": 0.5}

    def test_a_gang_is_refused_with_what_would_do(self, tmp_path):
        rig = Rig(LocalCluster(home=tmp_path, artifacts=tmp_path, devices=0), Artifacts(tmp_path)).start()
        if len(rig.devices) < 2:
            pytest.skip("one device only")
        assert "choose 1, or another cluster" in rig.to_the_end(rig.launch("meet", devices=2))[-1].error


class TestSimulatedCluster(ClusterContract):
    @classmethod
    def make(cls, home: Path) -> Cluster:
        devices = [
            Device(device_id=f"n/{i}", node_id="n", index=i, kind=DeviceKind.CUDA, memory_bytes=1 << 30)
            for i in range(2)
        ]
        return SimulatedCluster(devices=devices, script=play, startup_s=1.0)

    def damage(self, rig: Rig, key: str) -> None:
        rig.cluster.damage_output(key)


def play(launch: Launch) -> Script:
    """What the payloads do, as scripts."""
    payload = launch.stage.entrypoint.partition(":")[2]
    if payload == "fail":
        return Script(duration_s=3.0, raises="ValueError: the loss is not a number", ends_at=0.5)
    if payload == "ask_for_too_much":
        return Script(duration_s=3.0, needs_bytes=cluster_payloads.TOO_MUCH, ends_at=0.5)
    reports = {step: {"train/loss": 1.0 / step} for step in range(1, cluster_payloads.POINTS + 1)}
    saves = cluster_payloads.SAVES if payload == "save" else ()
    return Script(duration_s=3.0, reports=reports, saves=saves, outcome=Outcome(metrics={"eval/accuracy": 0.5}))


class TestNodeCluster(ProcessContract):
    @classmethod
    def make(cls, home: Path, devices: int = 0) -> Cluster:
        return NodeCluster(
            home=home, artifacts=home / "artifacts", devices=devices, python_path=PAYLOADS, stop_grace_s=STOP_GRACE_S
        )


class TestRayCluster(ProcessContract):
    @classmethod
    def make(cls, home: Path, devices: int = 0) -> Cluster:
        return RayCluster(
            home=home, artifacts=home / "artifacts", devices=devices, python_path=PAYLOADS, stop_grace_s=STOP_GRACE_S
        )

    def test_a_dead_agent_takes_its_node_and_its_bundles_along_and_comes_back(self, rig):
        launch = rig.launch("deaf")
        rig.until(launch, BundleStarted)
        (node,) = rig.cluster._nodes.values()
        os.kill(ray.get(node.actor.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)
        assert isinstance(rig.to_the_end(launch)[-1], WorkerLost)
        assert isinstance(rig.nodes[-1], NodeLost)
        meanwhile = rig.launch("succeed")
        assert isinstance(rig.to_the_end(meanwhile)[-1], WorkerLost)
        while not isinstance(rig.nodes[-1], NodeJoined):
            assert rig.poll(PATIENCE_S)
        assert isinstance(rig.to_the_end(rig.launch("succeed"))[-1], StageCompleted)
