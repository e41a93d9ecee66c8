"""Virtual time: what happens when, exactly."""

from dataclasses import replace

import pytest

from cluster.simulated import Script, SimulatedCluster
from orchestrator.events import (
    BundleStarted,
    BundleStopped,
    MemoryExceeded,
    NodeJoined,
    NodeLost,
    StageCompleted,
    StageRaised,
    StageReported,
    StageSaved,
    WorkerLost,
)
from orchestrator.schema import Device, DeviceKind, Node, Outcome
from tests.unit.cluster.launches import make_launch

DEVICES = tuple(
    Device(device_id=f"{node}/0", node_id=node, index=0, kind=DeviceKind.CUDA, memory_bytes=1 << 30)
    for node in ("n1", "n2")
)


def make(script, **arguments):
    cluster = SimulatedCluster(devices=DEVICES, script=lambda launch: script, start_at=100.0, **arguments)
    cluster.start()
    assert [event.node_id for event in cluster.poll(0.0)] == ["n1", "n2"]
    return cluster


def launch(cluster, bundle_id="b", key="key", node=0, memory_bytes=0, **stage):
    launch = make_launch(DEVICES[node : node + 1], bundle_id=bundle_id, key=key, budget_steps=10)
    placement = replace(launch.placement, memory_bytes=memory_bytes)
    launch = replace(launch, stage=replace(launch.stage, **stage), placement=placement)
    cluster.launch(launch)
    return launch


def history(cluster, until):
    events = []
    while cluster.now() < until:
        events += cluster.poll(until - cluster.now())
    return events


def test_a_run_from_start_to_end():
    cluster = make(Script(duration_s=20.0, reports={5: {"loss": 0.5}}, outcome=Outcome(metrics={"acc": 1.0})))
    launch(cluster)
    assert history(cluster, 200.0) == [
        BundleStarted(at=100.0, bundle_id="b"),
        StageReported(at=110.0, bundle_id="b", step=5, metrics={"loss": 0.5}, progress=0.5),
        StageCompleted(at=120.0, bundle_id="b", outcome=Outcome(metrics={"acc": 1.0}, busy_s=20.0)),
    ]
    assert cluster.available_outputs(["key", "other"]) == {"key"}


def test_the_clock_moves_to_the_next_event_or_by_the_timeout():
    cluster = make(Script(duration_s=20.0), startup_s=3.0)
    launch(cluster)
    assert cluster.poll(1.0) == []
    assert cluster.now() == 101.0
    assert cluster.poll(1e9) == [BundleStarted(at=103.0, bundle_id="b")]
    assert cluster.now() == 103.0


def test_a_stop_takes_effect_at_the_next_step_and_the_next_attempt_resumes_there():
    cluster = make(Script(duration_s=20.0, reports={4: {}, 8: {}}))
    launch(cluster, "b1")
    assert [type(e) for e in history(cluster, 109.0)] == [BundleStarted, StageReported]
    cluster.stop("b1", "preempted")
    cluster.stop("b1", "again")
    assert history(cluster, 111.0) == [BundleStopped(at=110.0, bundle_id="b1", busy_s=10.0)]
    launch(cluster, "b2")
    events = history(cluster, 200.0)
    assert [(type(e), e.at) for e in events] == [
        (BundleStarted, 111.0),
        (StageReported, 117.0),
        (StageCompleted, 121.0),
    ]
    assert events[-1].outcome.busy_s == 10.0


def test_a_lost_run_goes_on_from_its_last_checkpoint():
    script = Script(duration_s=20.0, saves=(2, 4, 6), loses="killed", ends_at=0.55)
    cluster = make(script)
    launch(cluster, "b1")
    assert history(cluster, 120.0) == [
        BundleStarted(at=100.0, bundle_id="b1"),
        StageSaved(at=104.0, bundle_id="b1", step=2),
        StageSaved(at=108.0, bundle_id="b1", step=4),
        WorkerLost(at=111.0, bundle_id="b1", reason="killed"),
    ]
    launch(cluster, "b2")
    assert history(cluster, 140.0) == [
        BundleStarted(at=120.0, bundle_id="b2"),
        WorkerLost(at=123.0, bundle_id="b2", reason="killed"),
    ]


def test_a_warm_stage_starts_at_its_parents_step_and_then_from_its_own():
    cluster = make(Script(duration_s=20.0, saves=(6, 8), loses="killed", ends_at=0.7))
    launch(cluster, "b1", warm_from="kept", warm_step=5)
    assert [e.at for e in history(cluster, 110.0)] == [100.0, 102.0, 104.0]
    launch(cluster, "b2", warm_from="kept", warm_step=5)
    assert [e.at for e in history(cluster, 120.0)] == [110.0, 112.0]


def test_a_stage_that_is_over_is_kept_at_its_end():
    cluster = make(Script(duration_s=20.0))
    launch(cluster)
    assert cluster.keep_checkpoint("study", "key") is None
    history(cluster, 130.0)
    assert cluster.keep_checkpoint("study", "key")[1] == 10
    assert cluster.keep_checkpoint("other", "key") is None


def test_a_stop_before_the_start():
    cluster = make(Script(duration_s=20.0), startup_s=5.0)
    launch(cluster)
    cluster.stop("b", "pruned")
    assert history(cluster, 150.0) == [
        BundleStarted(at=105.0, bundle_id="b"),
        BundleStopped(at=105.0, bundle_id="b", busy_s=0.0),
    ]


@pytest.mark.parametrize(
    ("script", "event"),
    [
        (Script(duration_s=20.0, raises="boom", ends_at=0.25), StageRaised(at=105.0, bundle_id="b", error="boom")),
        (Script(duration_s=20.0, loses="OOM", ends_at=0.5), WorkerLost(at=110.0, bundle_id="b", reason="OOM")),
    ],
)
def test_scripted_ends_cut_the_reports_off(script, event):
    cluster = make(script)
    launch(cluster)
    assert history(cluster, 200.0)[-1] == event
    assert cluster.available_outputs(["key"]) == set()


def test_a_lost_node_takes_its_bundles_along_and_may_come_back():
    cluster = make(Script(duration_s=20.0))
    launch(cluster, "b1", "k1", node=0)
    launch(cluster, "b2", "k2", node=1)
    cluster.lose_node("n1", 105.0, "spot reclaimed")
    cluster.join_node("n1", 115.0)
    events = history(cluster, 110.0)
    assert events[2:] == [
        WorkerLost(at=105.0, bundle_id="b1", reason="node lost: spot reclaimed", blameless=True),
        NodeLost(at=105.0, node_id="n1", reason="spot reclaimed"),
    ]
    launch(cluster, "b3", "k3", node=0)
    gone = WorkerLost(at=110.0, bundle_id="b3", reason="node n1 is gone", blameless=True)
    assert history(cluster, 111.0) == [gone]
    assert [type(e) for e in history(cluster, 130.0)] == [NodeJoined, StageCompleted]


def test_the_same_script_gives_the_same_history():
    def play():
        cluster = make(Script(duration_s=7.0, reports={step: {"s": step} for step in range(11)}))
        for number in range(5):
            launch(cluster, f"b{number}", f"k{number}", node=number % 2)
            cluster.poll(0.3)
        cluster.stop("b3", "pruned")
        return history(cluster, 120.0)

    assert play() == play()


# --- what a simulation asks for beyond ports.Cluster -----------------------------------------------------------------


def stage_ends(cluster, until):
    return {e.bundle_id: e.at for e in history(cluster, until) if isinstance(e, StageCompleted)}


def sharing(launch, others):
    """Twice as long beside one other, three times beside two."""
    return 1.0 + len(others)


def test_a_script_may_be_just_a_duration():
    cluster = make(20.0)
    launch(cluster)
    assert stage_ends(cluster, 130.0) == {"b": 120.0}


def test_a_launch_of_known_duration_reports_every_so_often_if_asked_to():
    cluster = make(20.0, report_every_s=6.0)
    launch(cluster)
    reports = [event for event in history(cluster, 130.0) if isinstance(event, StageReported)]
    # A step takes 2 s: a report every three of the ten.
    assert [(event.at, event.step, event.progress) for event in reports] == [
        (100.0, 0, 0.0),
        (106.0, 3, 0.3),
        (112.0, 6, 0.6),
        (118.0, 9, 0.9),
    ]


def test_who_shares_a_device_slows_down_from_then_on():
    cluster = make(20.0, slowdown=sharing)
    launch(cluster, "b1", "k1")
    history(cluster, 110.0)
    launch(cluster, "b2", "k2")
    # b1 has 10 s left and takes 20; b2 has done half by then, and does the rest alone.
    assert stage_ends(cluster, 200.0) == {"b1": 130.0, "b2": 140.0}


def test_who_sits_elsewhere_slows_nobody_down():
    cluster = make(20.0, slowdown=sharing)
    launch(cluster, "b1", "k1", node=0)
    launch(cluster, "b2", "k2", node=1)
    assert stage_ends(cluster, 200.0) == {"b1": 120.0, "b2": 120.0}


def test_reports_come_later_too_where_a_run_is_slowed_down():
    cluster = make(Script(duration_s=20.0, reports={5: {}, 10: {}}), slowdown=sharing)
    launch(cluster, "b1", "k1")
    launch(cluster, "b2", "k2")
    reports = [e.at for e in history(cluster, 200.0) if isinstance(e, StageReported) and e.bundle_id == "b1"]
    assert reports == [120.0, 140.0]


def test_a_slowed_run_stops_at_its_next_boundary():
    cluster = make(20.0, slowdown=sharing)
    launch(cluster, "b1", "k1")
    launch(cluster, "b2", "k2")
    history(cluster, 105.0)
    cluster.stop("b1", "preempted")
    # A step takes 4 s, so the second one ends at 108.
    assert [e.at for e in history(cluster, 200.0) if isinstance(e, BundleStopped)] == [108.0]


def test_what_lasts_forever_never_ends():
    cluster = make(float("inf"))
    launch(cluster)
    assert history(cluster, 1e6) == [BundleStarted(at=100.0, bundle_id="b")]
    assert cluster.idle()


def test_starts_need_not_be_told():
    cluster = make(20.0, announce_starts=False)
    launch(cluster)
    assert [type(e) for e in history(cluster, 130.0)] == [StageCompleted]


def test_arrivals_happen_at_their_time_after_what_else_happens_then():
    def arrive(number):
        return lambda: [NodeLost(at=number, node_id=f"arrival {number}", reason="")]

    cluster = make(20.0, arrivals=[(110.0, arrive(1)), (120.0, arrive(2)), (120.0, arrive(3))])
    launch(cluster)
    events = history(cluster, 130.0)[1:]
    told = [(cluster_event.at, getattr(cluster_event, "node_id", "end")) for cluster_event in events]
    assert told == [(1, "arrival 1"), (120.0, "end"), (2, "arrival 2"), (3, "arrival 3")]


def test_an_arrival_is_made_once_its_time_has_come():
    made = []

    def arrivals():
        for number in range(3):
            yield 110.0 + number, lambda number=number: made.append(number) or []

    cluster = make(20.0, arrivals=arrivals())
    cluster.poll(10.0)
    assert made == [0]
    cluster.poll(0.5)
    assert made == [0]
    cluster.poll(1.0)
    assert made == [0, 1]


def test_it_is_idle_once_nothing_will_happen():
    cluster = make(20.0, arrivals=[(110.0, list)])
    assert not cluster.idle()
    cluster.poll(10.0)
    assert cluster.idle()
    launch(cluster)
    assert not cluster.idle()


def test_polling_an_idle_cluster_forever_moves_no_clock():
    cluster = make(20.0)
    assert cluster.poll(float("inf")) == []
    assert cluster.now() == 100.0


def test_outputs_and_checkpoints_of_stages_that_nobody_needs_are_not_kept():
    cluster = make(20.0, keeps=lambda stage: stage.key == "kept")
    for key in ("kept", "dropped"):
        launch(cluster, key, key)
    history(cluster, 130.0)
    assert cluster.available_outputs(["kept", "dropped"]) == {"kept"}
    assert cluster.keep_checkpoint("study", "dropped") is None


def test_a_run_that_needs_more_memory_than_it_was_given_exceeds_it_and_then_fits():
    cluster = make(Script(duration_s=20.0, needs_bytes=200, ends_at=0.5))
    launch(cluster, "b1", "k1", memory_bytes=100)
    launch(cluster, "b2", "k2", memory_bytes=200)
    ends = {e.bundle_id: (type(e), e.at) for e in history(cluster, 200.0) if not isinstance(e, BundleStarted)}
    assert ends == {"b1": (MemoryExceeded, 110.0), "b2": (StageCompleted, 120.0)}


def test_a_node_may_have_no_devices_and_work_may_need_none():
    node = Node(node_id="host", devices=(), cpus=4.0, host_memory_bytes=1 << 30)
    cluster = SimulatedCluster(nodes=[node], script=lambda launch: 5.0)
    cluster.start()
    (joined,) = cluster.poll(0.0)
    assert (joined.node_id, joined.cpus, joined.host_memory_bytes) == ("host", 4.0, 1 << 30)
    made = make_launch(())
    cluster.launch(replace(made, placement=replace(made.placement, node_ids=("host",))))
    cluster.lose_node("host", 2.0, "gone")
    assert [type(e) for e in history(cluster, 10.0)] == [BundleStarted, WorkerLost, NodeLost]
