"""On which nodes a workload is played: the trace's own, or more or fewer like them."""

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.schema import Node
from orchestrator.simulation.nodes import nodes_of
from tests.unit.orchestrator.simulation.workloads import config, node

GIB = 1 << 30
OWN = [node(f"own-{i}", 8, cpus=96.0, model="H100") for i in range(3)] + [node("own-3", 2, cpus=32.0, model="T4")]


def cluster(*overrides: str) -> Any:
    return config(*overrides)["cluster"]


def shapes(nodes: tuple[Node, ...]) -> list[tuple[int, str, float]]:
    return [(len(n.devices), n.devices[0].model, n.cpus) for n in nodes]


def test_none_asked_for_are_the_traces_own():
    assert nodes_of(cluster(), OWN) == tuple(OWN)
    assert nodes_of(cluster(), ()) == ()


@pytest.mark.parametrize(("count", "large", "small"), [(1, 1, 0), (4, 3, 1), (8, 6, 2), (12, 9, 3)])
def test_more_or_fewer_are_like_the_traces_own_in_their_proportion(count: int, large: int, small: int):
    found = shapes(nodes_of(cluster(f"cluster.nodes={count}"), OWN))
    assert (found.count((8, "H100", 96.0)), found.count((2, "T4", 32.0))) == (large, small)
    assert len(found) == count


def test_each_has_devices_of_its_own():
    found = nodes_of(cluster("cluster.nodes=12"), OWN)
    devices = [device for n in found for device in n.devices]
    assert len({device.device_id for device in devices}) == len(devices) == 9 * 8 + 3 * 2
    assert all(device.node_id == n.node_id for n in found for device in n.devices)
    assert [n.node_id for n in found] == sorted(n.node_id for n in found)


def test_what_the_config_says_of_a_node_takes_the_place_of_what_the_traces_have():
    says = (
        "devices_per_node=4",
        "model=A100",
        "device_memory_gib=40",
        "cpus_per_node=0",
        "host_memory_gib_per_node=64",
    )
    (found,) = nodes_of(cluster("cluster.nodes=1", *(f"cluster.{text}" for text in says)), OWN)
    assert [device.index for device in found.devices] == [0, 1, 2, 3]
    assert {(device.model, device.memory_bytes) for device in found.devices} == {("A100", 40 * GIB)}
    assert (found.cpus, found.host_memory_bytes) == (0.0, 64 * GIB)


def test_nodes_of_a_trace_without_any_have_eight_devices_and_no_limits():
    (found,) = nodes_of(cluster("cluster.nodes=1"), ())
    assert len(found.devices) == 8
    assert {(device.model, device.memory_bytes) for device in found.devices} == {("", 80 * GIB)}
    assert (found.cpus, found.host_memory_bytes) == (0.0, 0)


def test_nodes_without_devices_stay_so_unless_some_are_asked_for():
    own = [replace(node(), devices=(), cpus=8.0)]
    assert nodes_of(cluster("cluster.nodes=2"), own)[1].devices == ()
    assert len(nodes_of(cluster("cluster.nodes=2", "cluster.devices_per_node=3"), own)[1].devices) == 3
