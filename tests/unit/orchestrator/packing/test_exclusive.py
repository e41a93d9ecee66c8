"""exclusive: one bundle per device, held whole."""

from orchestrator.packing import exclusive
from tests.unit.orchestrator.packing.test_every_policy import ask, build


def test_a_fraction_holds_its_device_whole() -> None:
    placements = exclusive(build([("a", 0, 8)]), ask([(1, 0.25, 1), (1, 0.25, 1)]))
    assert [(p.device_ids, p.share) for p in placements] == [(("node-a/cpu0",), 1.0)]


def test_a_device_with_residents_is_passed_over() -> None:
    placements = exclusive(build([("a", 1, 8), ("a", 0, 8)]), ask([(1, 0.25, 1)]))
    assert [p.device_ids for p in placements] == [("node-a/cpu1",)]


def test_a_gang_takes_the_first_node_with_enough_empty_devices() -> None:
    placements = exclusive(build([("a", 0, 8), ("b", 0, 8), ("b", 0, 8)]), ask([(2, 1.0, 1)]))
    assert [p.device_ids for p in placements] == [("node-b/cpu1", "node-b/cpu2")]
