"""A driver that is killed takes all of its cluster along, so that the next one can start at once."""

import pytest

from cluster.node import NodeCluster
from cluster.ray import RayCluster
from orchestrator.events import StageCompleted
from tests.unit.cluster.drivers import running_driver, wait_until_gone
from tests.unit.cluster.launches import ROOT, make_launch, wait_for


@pytest.mark.slow
@pytest.mark.parametrize("cluster_class", [NodeCluster, RayCluster])
def test_nothing_outlives_a_killed_driver_and_the_next_one_starts_at_once(tmp_path, cluster_class):
    with running_driver(cluster_class.__name__, tmp_path) as (driver, family):
        driver.kill()
        successor = cluster_class(home=tmp_path, artifacts=tmp_path / "artifacts", devices=1, python_path=(ROOT,))
        try:
            wait_until_gone(family)
            successor.start()
            (joined,) = successor.poll(30.0)
            successor.launch(make_launch(joined.devices, bundle_id="next"))
            assert isinstance(wait_for(successor, "next"), StageCompleted)
        finally:
            successor.close()
