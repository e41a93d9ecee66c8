"""with_aging: nobody is overtaken for longer than max_wait_s, whatever arrives."""

from collections.abc import Mapping
from functools import partial

import pytest

from orchestrator.ordering import ORDERINGS, OrderingPolicy, fair_share, fifo, priority, shortest_first, with_aging
from orchestrator.packing import BestFit
from orchestrator.schema import Capacity, Node, Placement, Request, Tenant, TenantUse
from orchestrator.snapshot import Room, Snapshot
from tests.unit.orchestrator.builders import device
from tests.unit.orchestrator.ordering.requests import keys, waiting

DEVICES = 4
HOLD_S = 10.0
MAX_WAIT_S = 100.0
PLAIN: Mapping[str, OrderingPolicy] = {
    "fifo": fifo,
    "priority": priority,
    "shortest_first": shortest_first,
    # With a half-life this short only what is held counts.
    "fair_share": partial(fair_share, half_life_s=1e-3),
}


def rival(number: int, at: float) -> Request:
    """What every policy but fifo prefers to the victim: more important, shorter, of a tenant that holds nothing."""
    return waiting(f"rival-{number}", at=at, tenant=f"tenant-{number}", priority=9, expected_s=1.0)


def victim_starts_at(order: OrderingPolicy, victim: Request, until_s: float) -> float | None:
    """Drive devices, second by second: each that falls free finds a fresh rival in the queue beside the victim, whose
    tenant holds one device all along."""
    queue = [victim]
    running: dict[str, tuple[Placement, float]] = {}
    count = 0
    for second in range(int(until_s)):
        at = float(second)
        # Ends are staggered, so that never all devices are free at once unless somebody waits for them.
        running = {key: run for key, run in running.items() if run[1] > at}
        queue += [rival(count + n, at) for n in range(DEVICES)]
        count += DEVICES
        room = Room([Node(node_id="node-a", devices=tuple(map(device, range(DEVICES))))])
        for placement, _ in running.values():
            room.take(placement)
        holder = Tenant(name=victim.tenant)
        snapshot = Snapshot(
            at=at,
            queue=tuple(queue),
            room=room,
            tenants={victim.tenant: TenantUse(tenant=holder, held=Capacity(devices=9.0), used=Capacity())},
        )
        for placement in BestFit()(snapshot, order(snapshot)):
            request = next(r for r in queue if r.stage_key == placement.stage_key)
            if request is victim:
                return at
            queue.remove(request)
            running[request.stage_key] = placement, at + HOLD_S - count % 3
        queue = [r for r in queue if r is victim or at - r.queued_at < 3]
    return None


VICTIMS = pytest.mark.parametrize(
    "victim",
    [waiting("victim", at=5.0, tenant="holder", expected_s=50.0, devices=n) for n in (1, DEVICES)],
    ids=["one device", "a gang of all"],
)


@VICTIMS
@pytest.mark.parametrize("name", sorted(ORDERINGS))
def test_the_victim_starts_within_the_bound(name: str, victim: Request) -> None:
    order = ORDERINGS[name]({"max_wait_s": MAX_WAIT_S, "half_life_s": 1e-3})
    started = victim_starts_at(order, victim, until_s=300.0)
    assert started is not None
    assert started - victim.queued_at <= MAX_WAIT_S + HOLD_S + 1


@VICTIMS
@pytest.mark.parametrize("name", sorted(PLAIN.keys() - {"fifo"}))
def test_without_aging_it_starves(name: str, victim: Request) -> None:
    assert victim_starts_at(PLAIN[name], victim, until_s=300.0) is None


def test_who_has_waited_exactly_the_bound_is_not_overdue() -> None:
    queue = waiting("early", at=0.0), waiting("urgent", at=1.0, priority=1)
    aged = with_aging(priority, MAX_WAIT_S)
    assert keys(aged(Snapshot(at=MAX_WAIT_S, queue=queue))) == ["urgent", "early"]
    assert keys(aged(Snapshot(at=MAX_WAIT_S + 0.5, queue=queue))) == ["early", "urgent"]
