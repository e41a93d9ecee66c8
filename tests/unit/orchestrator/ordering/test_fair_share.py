"""fair_share: dominant-resource fairness with a memory that fades."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.ordering import fair_share
from orchestrator.schema import Capacity, Request, Tenant, TenantUse
from orchestrator.snapshot import Snapshot
from tests.unit.orchestrator.ordering.requests import keys, waiting

HALF_LIFE_S = 100.0
NOTHING = Capacity()
EIGHT = Capacity(devices=8.0, cpus=64.0, host_memory_bytes=1000.0)


def use(name: str, held: Capacity = NOTHING, used: Capacity = NOTHING, weight: float = 1.0) -> dict[str, TenantUse]:
    return {name: TenantUse(tenant=Tenant(name=name, weight=weight), held=held, used=used)}


def served(queue: list[Request], tenants: dict[str, TenantUse], capacity: Capacity = EIGHT) -> list[str]:
    snapshot = Snapshot(at=0.0, queue=tuple(queue), capacity=capacity, tenants=tenants)
    return keys(fair_share(snapshot, half_life_s=HALF_LIFE_S))


def test_tenants_take_turns() -> None:
    queue = [waiting(f"a{n}", tenant="a") for n in range(3)] + [waiting("b0", tenant="b", at=1.0)]
    assert served(queue, {}) == ["a0", "b0", "a1", "a2"]


def test_who_holds_more_waits() -> None:
    queue = [waiting("a0", tenant="a"), waiting("b0", tenant="b", at=1.0)]
    assert served(queue, use("a", held=Capacity(devices=1.0))) == ["b0", "a0"]


def test_the_dominant_resource_counts() -> None:
    tenants = use("a", held=Capacity(devices=1.0, cpus=63.0)) | use("b", held=Capacity(devices=4.0, cpus=4.0))
    queue = [waiting("a0", tenant="a"), waiting("b0", tenant="b", at=1.0)]
    assert served(queue, tenants) == ["b0", "a0"]


def test_host_memory_counts_too() -> None:
    tenants = use("a", held=Capacity(host_memory_bytes=900.0)) | use("b", held=Capacity(devices=7.0))
    queue = [waiting("a0", tenant="a"), waiting("b0", tenant="b", at=1.0)]
    assert served(queue, tenants) == ["b0", "a0"]


def test_twice_the_weight_gets_twice_the_turns() -> None:
    queue = [waiting(f"{t}{n}", tenant=t) for t in "ab" for n in range(6)]
    first_six = served(queue, use("a", weight=2.0) | use("b"))[:6]
    assert [key[0] for key in first_six].count("a") == 4


def test_what_was_used_counts_as_the_rate_that_would_have_left_it() -> None:
    # Two devices held forever leave 2 x half-life / ln 2 of decayed device-seconds.
    forever = Capacity(devices=2.0 * HALF_LIFE_S / math.log(2))
    queue = [waiting("a0", tenant="a"), waiting("b0", tenant="b", at=1.0)]
    for held, first in ((1.9, "b0"), (2.1, "a0")):
        assert served(queue, use("a", used=forever) | use("b", held=Capacity(devices=held)))[0] == first


def test_inside_a_tenant_priority_goes_before_arrival() -> None:
    queue = [waiting("early"), waiting("urgent", at=1.0, priority=1), waiting("later", at=2.0)]
    assert served(queue, {}) == ["urgent", "early", "later"]


def test_a_tie_goes_to_the_tenant_that_came_first() -> None:
    queue = [waiting("b0", tenant="b", at=1.0), waiting("a0", tenant="a", at=0.5)]
    assert served(queue, {}) == ["a0", "b0"]


def test_without_any_capacity_known_the_order_is_that_of_arrival_by_tenant() -> None:
    queue = [waiting("a0", tenant="a"), waiting("b0", tenant="b", at=1.0)]
    assert served(queue, {}, capacity=Capacity()) == ["a0", "b0"]


def test_the_example_of_the_papers_section_4() -> None:
    """9 CPUs and 18 GB; A's tasks take 1 CPU and 4 GB, B's 3 CPUs and 1 GB: A gets three tasks, B two."""
    queue = [waiting(f"a{n}", tenant="a", share=1e-9, cpus=1.0, host_memory_bytes=4) for n in range(9)]
    queue += [waiting(f"b{n}", tenant="b", share=1e-9, cpus=3.0, host_memory_bytes=1) for n in range(9)]
    order = served(queue, {}, capacity=Capacity(devices=1.0, cpus=9.0, host_memory_bytes=18.0))
    assert sorted(order[:5]) == ["a0", "a1", "a2", "b0", "b1"]


def progressive_filling(snapshot: Snapshot) -> list[Request]:
    """The algorithm as the paper states it, one step after the other."""
    held = {}
    queue = sorted(snapshot.queue, key=lambda r: r.queued_at)
    tenants = list(dict.fromkeys(r.tenant for r in queue))
    for name in tenants:
        known = snapshot.tenants.get(name)
        tenant = known.tenant if known else Tenant(name=name)
        start = known.held if known else Capacity()
        held[name] = ([start.devices, start.cpus, start.host_memory_bytes], tenant.weight)
    totals = [snapshot.capacity.devices, snapshot.capacity.cpus, snapshot.capacity.host_memory_bytes]
    waiting_of = {t: sorted((r for r in queue if r.tenant == t), key=lambda r: -r.priority) for t in tenants}
    order = []
    while any(waiting_of.values()):
        shares = {
            t: max(a / total for a, total in zip(held[t][0], totals, strict=True)) / held[t][1]
            for t in tenants
            if waiting_of[t]
        }
        least = min(shares, key=lambda t: (shares[t], tenants.index(t)))
        request = waiting_of[least].pop(0)
        order.append(request)
        amounts = held[least][0]
        amounts[0] += request.demand.devices * request.demand.share
        amounts[1] += request.demand.cpus
        amounts[2] += request.demand.host_memory_bytes
    return order


@given(
    asks=st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.integers(0, 2),
            st.integers(1, 4),
            st.sampled_from([0.25, 0.5, 1.0]),
            st.integers(0, 32),
            st.integers(0, 512),
        ),
        max_size=15,
    ),
    held=st.tuples(st.integers(0, 8), st.integers(0, 64), st.integers(0, 1024)),
    weight=st.sampled_from([0.5, 1.0, 2.0, 4.0]),
)
def test_equals_progressive_filling_step_by_step(asks: list, held: tuple, weight: float) -> None:
    # Powers of two, so that both ways of dividing round alike.
    queue = tuple(
        waiting(str(n), at=float(n // 3), tenant=t, priority=p, devices=d, share=s, cpus=c, host_memory_bytes=m)
        for n, (t, p, d, s, c, m) in enumerate(asks)
    )
    tenants = use("a", held=Capacity(devices=held[0], cpus=held[1], host_memory_bytes=held[2]), weight=weight)
    capacity = Capacity(devices=8.0, cpus=64.0, host_memory_bytes=1024.0)
    snapshot = Snapshot(at=9.0, queue=queue, capacity=capacity, tenants=tenants)
    assert fair_share(snapshot, half_life_s=HALF_LIFE_S) == progressive_filling(snapshot)


@pytest.mark.parametrize("weight", [0.5, 3.0])
def test_a_lone_tenant_is_served_by_arrival_whatever_its_weight(weight: float) -> None:
    queue = [waiting(str(n), at=float(n)) for n in range(4)]
    assert served(queue, use("default", weight=weight)) == keys(queue)
