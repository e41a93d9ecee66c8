"""Leaders of one store that follow each other on one Ray cluster."""

import signal

import pytest

from cluster.ray import RayCluster
from orchestrator.events import StageCompleted
from orchestrator.ports import ClusterUnavailable
from tests.unit.cluster.drivers import running_driver, wait_until_gone
from tests.unit.cluster.launches import ROOT, make_launch, wait_for
from tests.unit.cluster.test_ray import OBJECT_STORE_BYTES


@pytest.fixture(scope="module")
def address():
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args=node)
    yield nodes.address
    nodes.shutdown()


def leader(home, address, term, owner="store", **options):
    return RayCluster(
        home=home, artifacts=home / "artifacts", address=address, python_path=(ROOT,), owner=owner, term=term, **options
    )


def complete_one(cluster, devices, bundle_id):
    cluster.launch(make_launch(devices, bundle_id=bundle_id))
    assert isinstance(wait_for(cluster, bundle_id), StageCompleted)


def start(cluster):
    cluster.start()
    (joined,) = cluster.poll(30.0)
    return joined.devices


pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # ray.cluster_utils leaves log files open
]


def test_a_paused_leaders_devices_go_to_its_successor_and_it_wakes_up_to_nothing(tmp_path, address):
    with running_driver("RayCluster", tmp_path, address=address, owner="store", term=1) as (driver, family):
        driver.send_signal(signal.SIGSTOP)
        successor = leader(tmp_path, address, 2)
        try:
            devices = start(successor)
            wait_until_gone(family, patience_s=0.0)
            complete_one(successor, devices, "first")
            driver.send_signal(signal.SIGCONT)
            told = driver.stdout.read().split("\n")
            assert [told[0], told[1], told[-2]] == ["WorkerLost", "NodeLost", "closed"]
            complete_one(successor, devices, "second")
        finally:
            successor.close()


def test_a_killed_leaders_devices_go_to_its_successor(tmp_path, address):
    with running_driver("RayCluster", tmp_path, address=address, owner="store", term=1) as (driver, family):
        driver.kill()
        successor = leader(tmp_path, address, 2)
        try:
            devices = start(successor)
            wait_until_gone(family, patience_s=0.0)
            complete_one(successor, devices, "first")
        finally:
            successor.close()


def test_an_earlier_leader_takes_nothing_from_a_later_one(tmp_path, address):
    with running_driver("RayCluster", tmp_path, address=address, owner="store", term=3) as (_, family):
        with pytest.raises(ClusterUnavailable, match="a later leader holds the devices"):
            leader(tmp_path, address, 2).start()
        assert all(process.is_running() for process in family)


def test_leaders_of_another_store_are_left_alone(tmp_path, address):
    with running_driver("RayCluster", tmp_path, address=address, owner="other", term=1) as (_, family):
        with pytest.raises(ClusterUnavailable, match="the devices were not free"):
            leader(tmp_path, address, 2, start_timeout_s=3.0).start()
        assert all(process.is_running() for process in family)
