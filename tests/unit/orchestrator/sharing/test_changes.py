"""Snapshots as they will be."""

from orchestrator.packing import BestFit
from orchestrator.schema import Capacity, Placement
from orchestrator.sharing import after_placements
from orchestrator.sharing.changes import after_leaving
from tests.unit.orchestrator.builders import GIB
from tests.unit.orchestrator.ordering.requests import keys, waiting
from tests.unit.orchestrator.sharing.snapshots import ids, resident, snapshot


def test_placements_take_room_and_leave_the_queue() -> None:
    before = snapshot(nodes=(2,), queue=[waiting("x", share=0.5, tenant="team", cpus=3.0), waiting("y")])
    placement = Placement(stage_key="x", device_ids=tuple(ids("a", 1)), share=0.5, memory_bytes=3 * GIB)
    after = after_placements(before, [placement])
    assert keys(after.queue) == ["y"]
    assert [(d.free_share, d.free_memory_bytes // GIB, d.residents) for d in after.devices] == [
        (1.0, 8, 0),
        (0.5, 5, 1),
    ]
    assert after.tenants["team"].held == Capacity(devices=0.5, cpus=3.0)


def test_packing_again_finds_what_packing_left() -> None:
    queue = [waiting(str(n), share=0.5) for n in range(5)]
    before = snapshot(nodes=(2,), queue=queue)
    after = after_placements(before, BestFit()(before, queue))
    assert keys(after.queue) == ["4"]
    assert list(BestFit()(after, after.queue)) == []


def test_without_placements_nothing_changes() -> None:
    before = snapshot(queue=[waiting("x")])
    assert after_placements(before, []) is before


def test_who_leaves_is_back_in_the_queue_at_its_old_place() -> None:
    running = resident(waiting("old", at=1.0, tenant="team"), ids("a", 0))
    before = snapshot(residents=[running], queue=[waiting("first", at=0.0), waiting("tie", at=1.0)])
    after = after_leaving(before, [running])
    assert keys(after.queue) == ["first", "old", "tie"]
    assert (after.residents, after.tenants["team"].held) == ((), Capacity())
