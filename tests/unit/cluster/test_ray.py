"""The cluster on Ray beyond the contract: joining, several nodes, interrupted starts."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from cluster.ray import RayCluster
from orchestrator.events import NodeJoined, StageCompleted, StageRaised
from orchestrator.ports import ClusterUnavailable
from tests.unit.cluster.launches import ROOT, make_launch, wait_for

OBJECT_STORE_BYTES = 80 << 20


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"])
def test_an_address_where_nobody_answers(tmp_path, address):
    cluster = RayCluster(home=tmp_path, artifacts=tmp_path / "artifacts", address=address)
    with pytest.raises(ClusterUnavailable, match=rf"cluster\.address='{address}': no Ray cluster answers there"):
        cluster.start()
    cluster.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # ray.cluster_utils leaves log files open
def test_two_nodes_each_with_an_agent_of_its_own(tmp_path):
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES}
    nodes = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        nodes.add_node(**node)
        options = {"home": tmp_path, "artifacts": tmp_path / "artifacts", "address": nodes.address}
        with pytest.raises(ClusterUnavailable, match=r"cluster\.devices=3: there are 2 "):
            RayCluster(devices=3, **options).start()
        cluster = RayCluster(python_path=(ROOT,), **options)
        cluster.start()
        joined = []
        while len(joined) < 2:
            joined += [event for event in cluster.poll(10.0) if isinstance(event, NodeJoined)]
        devices = [event.devices[0] for event in joined]
        assert len({device.node_id for device in devices}) == 2
        for number, device in enumerate(devices):
            cluster.launch(make_launch([device], bundle_id=f"b{number}"))
            assert isinstance(wait_for(cluster, f"b{number}"), StageCompleted)
        cluster.launch(make_launch(devices, "meet", bundle_id="across"))
        raised = wait_for(cluster, "across")
        assert isinstance(raised, StageRaised)
        assert "the devices of one node" in raised.error
        cluster.close()
    finally:
        nodes.shutdown()


DRIVER = """
import sys
from pathlib import Path
from cluster.ray import RayCluster

home = Path(sys.argv[1])
cluster = RayCluster(home=home, artifacts=home / "artifacts")
print("starting", flush=True)
try:
    cluster.start()
    print("started", flush=True)
    cluster.poll(600)
    cluster.poll(600)
except KeyboardInterrupt:
    print("interrupted", flush=True)
finally:
    cluster.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", ["starting", "started"])
def test_ctrl_c_leaves_nothing(tmp_path, after):
    """The signal goes to the whole process group, as a terminal sends it."""
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": ROOT}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as driver:
        while driver.stdout.readline().strip() != after:
            pass
        time.sleep(1.0)
        family = psutil.Process(driver.pid).children(recursive=True)
        assert family
        os.killpg(driver.pid, signal.SIGINT)
        assert driver.stdout.read().splitlines()[-1] == "interrupted"
        assert driver.wait(30) == 0
    deadline = time.monotonic() + 5
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family):
        assert time.monotonic() < deadline, family
        time.sleep(0.05)
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
