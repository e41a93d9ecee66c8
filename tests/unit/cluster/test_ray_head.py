"""The head of a Ray cluster dies: the driver lives, says what is lost, and can start again."""

import socket
import time

import psutil
import pytest
import ray

from cluster.ray import RayCluster
from cluster.ray.head import HeadWatch, parse_address
from orchestrator.events import BundleStarted, NodeLost, StageCompleted, WorkerLost
from orchestrator.ports import ClusterUnavailable
from tests.unit.cluster.drivers import wait_until_gone
from tests.unit.cluster.launches import ROOT, make_launch, wait_for
from tests.unit.cluster.test_ray import OBJECT_STORE_BYTES

DETECTION_S = 5.0
SLACK_S = 2.0


def start_and_launch(cluster, payload, bundle_id):
    cluster.start()
    (joined,) = cluster.poll(30.0)
    cluster.launch(make_launch(joined.devices, payload, bundle_id=bundle_id))


def events_until_unavailable(cluster):
    """What poll gave until it raised, the error's text, and how long that took [s]."""
    events, started = [], time.monotonic()
    while time.monotonic() - started < 30.0:
        try:
            events += cluster.poll(0.5)
        except ClusterUnavailable as error:
            return events, str(error), time.monotonic() - started
    raise AssertionError(events)


def assert_lost(events):
    ends = [event for event in events if isinstance(event, WorkerLost | NodeLost)]
    assert [type(event) for event in ends] == [WorkerLost, NodeLost]


@pytest.mark.slow
@pytest.mark.parametrize("daemon", ["gcs_server", "raylet"])
def test_a_dead_head_is_noticed_and_the_cluster_starts_again(tmp_path, daemon):
    cluster = RayCluster(home=tmp_path, artifacts=tmp_path / "artifacts", devices=1, python_path=(ROOT,))
    try:
        start_and_launch(cluster, "deaf", "b1")
        wait_for(cluster, "b1", BundleStarted)
        family = psutil.Process().children(recursive=True)
        next(process for process in family if daemon in process.name()).kill()
        events, reason, took_s = events_until_unavailable(cluster)
        assert_lost(events)
        assert "the Ray head is gone" in reason
        assert took_s < DETECTION_S + SLACK_S
        wait_until_gone(family)
        cluster.close()
        start_and_launch(cluster, "succeed", "b2")
        assert isinstance(wait_for(cluster, "b2"), StageCompleted)
    finally:
        cluster.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # ray.cluster_utils leaves log files open
def test_a_dead_head_at_an_address_ends_the_bundles_there(tmp_path):
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    options = {"home": tmp_path, "artifacts": tmp_path / "artifacts", "address": nodes.address}
    cluster = RayCluster(python_path=(ROOT,), **options)
    try:
        start_and_launch(cluster, "deaf", "b")
        wait_for(cluster, "b", BundleStarted)
        family = psutil.Process().children(recursive=True)
        bundles = [process for process in family if "cluster.forkserver" in " ".join(process.cmdline())]
        assert bundles
        next(process for process in family if "gcs_server" in process.name()).kill()
        events, reason, took_s = events_until_unavailable(cluster)
        assert_lost(events)
        assert "the Ray head is gone" in reason
        assert took_s < DETECTION_S + SLACK_S
        wait_until_gone(bundles)
    finally:
        cluster.close()
        nodes.shutdown()
    with pytest.raises(ClusterUnavailable, match="no Ray cluster answers there"):
        cluster.start()
    assert not ray.is_initialized()


def test_somebody_who_stops_listening_is_noticed_once():
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        watch = HeadWatch([server.getsockname()], lambda reason, _: heard.append(reason))
        time.sleep(1.0)
        assert watch.answers()
        assert heard == []
    deadline = time.monotonic() + DETECTION_S
    while not heard:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not watch.answers()
    watch.close()
    assert len(heard) == 1


@pytest.mark.parametrize("address", ["head:6379", "ray://head:6379"])
def test_an_address_is_a_host_and_a_port(address):
    assert parse_address(address) == ("head", 6379)


@pytest.mark.parametrize("address", ["auto", "head:", ":6379", "head:port"])
def test_what_is_no_host_and_port_is_refused(address):
    with pytest.raises(ValueError):
        parse_address(address)
