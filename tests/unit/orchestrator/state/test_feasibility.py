"""What no node can ever meet, in words."""

from dataclasses import replace

import pytest

from orchestrator.events import NodeJoined
from orchestrator.schema import Demand, Placement
from orchestrator.state.feasibility import Feasibility
from orchestrator.state.room import DeviceRoom
from tests.unit.orchestrator.builders import GIB, device

CPUS, HOST_BYTES = 8.0, 64 * GIB


def room(*models: str, devices: int = 2) -> DeviceRoom:
    """A node per model, of that many devices of 8 GiB."""
    made = DeviceRoom()
    for number, model in enumerate(models):
        node = f"node-{number}"
        on_node = tuple(replace(device(i, node), model=model) for i in range(devices))
        made.join(NodeJoined(at=0.0, node_id=node, devices=on_node, cpus=CPUS, host_memory_bytes=HOST_BYTES))
    return made


def asks(**fields: object) -> Demand:
    return Demand(**{"devices": 1, "share": 1.0, "memory_bytes": GIB, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("demand", "words"),
    [
        (asks(models=("H100",)), "a device of model H100, and there are A100, T4; name one of those, or none"),
        (asks(memory_bytes=9 * GIB), "a device with 9.0 GiB, the largest has 8.0"),
        (asks(models=("T4",), memory_bytes=9 * GIB), "a device of model T4 with 9.0 GiB, the largest has 8.0"),
        (asks(devices=3), "3 devices on one node, and no node has more than 2"),
        (asks(devices=5, max_nodes=2), "5 devices on 2 nodes, and no 2 nodes have more than 4"),
        (asks(cpus=9.0), "9 CPU cores beside its devices, and there are 8 at most"),
        (asks(devices=0, cpus=9.0), "9 CPU cores on one node, and there are 8 at most"),
        (asks(host_memory_bytes=65 * GIB), "65.0 GiB of host memory beside its devices, and there are 64.0 at most"),
    ],
)
def test_what_is_missing_is_named_with_what_there_is(demand: Demand, words: str) -> None:
    assert Feasibility(room("A100", "T4")).why_never(demand).startswith(words)


@pytest.mark.parametrize(
    "demand",
    [
        asks(models=("H100", "T4"), devices=2),
        asks(devices=4, max_nodes=2, cpus=16.0, host_memory_bytes=128 * GIB),
        asks(devices=0, cpus=8.0, host_memory_bytes=64 * GIB),
        asks(devices=2, share=0.5, memory_bytes=8 * GIB, cpus=8.0),
    ],
)
def test_what_fits_empty_nodes_may_wait(demand: Demand) -> None:
    assert Feasibility(room("A100", "T4")).why_never(demand) == ""


def test_a_gang_needs_cores_and_memory_on_as_many_nodes_as_it_may_reach() -> None:
    feasibility = Feasibility(room("A100", "T4"))
    gang = asks(devices=4, max_nodes=2)
    assert "17 CPU cores" in feasibility.why_never(replace(gang, cpus=17.0))
    assert "129.0 GiB of host memory" in feasibility.why_never(replace(gang, host_memory_bytes=129 * GIB))


def test_nodes_that_do_not_say_what_they_have_limit_nobody() -> None:
    made = DeviceRoom()
    made.join(NodeJoined(at=0.0, node_id="node-a", devices=tuple(device(i) for i in range(8))))
    large = asks(devices=8, max_nodes=2, cpus=1e6, host_memory_bytes=2**50)
    assert Feasibility(made).why_never(large) == ""


def test_a_device_that_is_taken_now_does_not_make_a_demand_impossible() -> None:
    made = room("A100")
    taken = Placement(stage_key="x", device_ids=tuple(made.devices), share=1.0, memory_bytes=8 * GIB, cpus=CPUS)
    made.take("bundle", taken, "")
    assert Feasibility(made).why_never(asks(devices=2, cpus=CPUS)) == ""


def test_the_answer_changes_with_the_nodes() -> None:
    made = room("A100")
    feasibility = Feasibility(made)
    assert feasibility.why_never(asks(models=("T4",))) != ""
    t4 = replace(device(0, "node-t"), model="T4")
    made.join(NodeJoined(at=1.0, node_id="node-t", devices=(t4,)))
    assert feasibility.why_never(asks(models=("T4",))) == ""
