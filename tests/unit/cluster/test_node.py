"""This machine alone: what ends it for good."""

import os
import signal

import pytest

from cluster.node import NodeCluster
from orchestrator.events import BundleStarted, NodeLost, StageCompleted, WorkerLost
from orchestrator.ports import ClusterUnavailable
from tests.unit.cluster.launches import ROOT, make_launch, wait_for


def test_a_node_whose_preload_broke_is_unavailable_until_it_is_started_again(tmp_path):
    module = tmp_path / "preloaded_here.py"
    module.write_text("")
    cluster = NodeCluster(
        home=tmp_path,
        artifacts=tmp_path / "artifacts",
        devices=1,
        preload=("preloaded_here",),
        python_path=(ROOT, str(tmp_path)),
    )
    try:
        cluster.start()
        (joined,) = cluster.poll(5.0)
        cluster.launch(make_launch(joined.devices, "deaf", bundle_id="b1"))
        wait_for(cluster, "b1", BundleStarted)
        module.write_text("raise RuntimeError('broken meanwhile')")
        os.kill(cluster._agent._server.pid, signal.SIGKILL)
        assert isinstance(wait_for(cluster, "b1"), WorkerLost)
        (lost,) = cluster.poll(30.0)
        assert isinstance(lost, NodeLost)
        with pytest.raises(ClusterUnavailable, match="broken meanwhile"):
            cluster.poll(0.0)
        module.write_text("")
        cluster.close()
        cluster.start()
        (joined,) = cluster.poll(5.0)
        cluster.launch(make_launch(joined.devices, bundle_id="b2"))
        assert isinstance(wait_for(cluster, "b2"), StageCompleted)
    finally:
        cluster.close()
