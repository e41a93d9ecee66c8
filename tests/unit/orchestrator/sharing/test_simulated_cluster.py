"""What tenants can rely on when ordering, quotas, packing and preemption work together, on random work."""

from collections.abc import Iterator
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.ordering import OrderingPolicy, fair_share, fifo, priority, with_aging
from orchestrator.schema import Request, Tenant
from orchestrator.sharing import PREEMPTIONS
from tests.unit.orchestrator.ordering.requests import waiting
from tests.unit.orchestrator.sharing.simulated_cluster import Cycle, SimulatedCluster

STOP_DELAY_S = 3
MAX_PREEMPTIONS = 2
MIN_HOLD_S = 2.0
TENANTS = (
    Tenant(name="a", quota=2.0, borrowing_limit=1.0),
    Tenant(name="b", quota=1.0, borrowing_limit=4.0),
    Tenant(name="c", quota=0.5, borrowing_limit=None),
    Tenant(name="free"),
)
LIMITS = {"a": 3.0, "b": 5.0}
ORDERINGS: dict[str, OrderingPolicy] = {
    "fifo": fifo,
    "priority": priority,
    "aged_priority": with_aging(priority, max_wait_s=15.0),
    "fair_share": partial(fair_share, half_life_s=20.0),
}
# (arrives at, tenant, priority, devices, share, hold)
WORK = st.lists(
    st.tuples(
        st.integers(0, 25),
        st.sampled_from(["a", "b", "c", "free"]),
        st.integers(0, 2),
        st.integers(1, 2),
        st.sampled_from([0.5, 1.0]),
        st.integers(1, 15),
    ),
    min_size=1,
    max_size=14,
)
SINGLES = st.lists(st.tuples(st.integers(0, 25), st.sampled_from("ab"), st.integers(1, 30)), min_size=4, max_size=16)


def requests(work: list) -> list[tuple[Request, float]]:
    made = [
        (waiting(str(n), at=float(at), tenant=tenant, priority=p, devices=devices, share=share), float(hold_s))
        for n, (at, tenant, p, devices, share, hold_s) in enumerate(work)
    ]
    return sorted(made, key=lambda arrival: arrival[0].queued_at)


def cluster(ordering: OrderingPolicy, arrivals: list, max_preemptions: int = MAX_PREEMPTIONS) -> SimulatedCluster:
    return SimulatedCluster(
        nodes=(2, 2),
        tenants=TENANTS,
        ordering=ordering,
        preemption=PREEMPTIONS["least_lost"]({"max_preemptions": max_preemptions, "min_hold_s": MIN_HOLD_S}),
        stop_delay_s=STOP_DELAY_S,
        arrivals=arrivals,
    )


def undisturbed(cycles: list[Cycle]) -> Iterator[tuple[str, list[Cycle]]]:
    """Claimants that room was made for, each with the cycles up to when its victims have left, where meanwhile nobody
    arrived and nothing ended: then nothing but the policies can come between."""
    for n, cycle in enumerate(cycles):
        until = cycles[n + 1 : n + 1 + STOP_DELAY_S]
        if not any(later.arrived or later.ended for later in until):
            for preemption in cycle.preemptions:
                yield preemption.for_stage_key, until


@pytest.mark.parametrize("name", sorted(ORDERINGS))
@settings(max_examples=60, deadline=None)
@given(work=WORK)
def test_everything_ends_and_nobody_goes_beyond_a_limit(name: str, work: list) -> None:
    simulated = cluster(ORDERINGS[name], requests(work))
    cycles = simulated.drive(seconds=600)
    assert not simulated.queue
    assert not simulated.runs
    assert all(count <= MAX_PREEMPTIONS for count in simulated.preempted.values())
    assert all(cycle.held[tenant] <= limit for cycle in cycles for tenant, limit in LIMITS.items())


@pytest.mark.parametrize("name", ["fifo", "priority", "fair_share"])
@settings(max_examples=60, deadline=None)
@given(work=WORK)
def test_room_that_is_made_goes_to_whom_it_was_made_for(name: str, work: list) -> None:
    """Not under aging: a request that is overdue by the time that the room is free goes first, as it must."""
    for claimant, until in undisturbed(cluster(ORDERINGS[name], requests(work)).drive(seconds=600)):
        assert claimant in [key for cycle in until for key in cycle.started]


@pytest.mark.parametrize("name", ["fifo", "fair_share"])
@settings(max_examples=100, deadline=None)
@given(work=SINGLES)
def test_a_claim_within_the_quota_waits_for_the_stop_and_one_cycle(name: str, work: list) -> None:
    """Whole devices of equal priority, quotas that add up to less than there is: then every claim can be met."""
    arrivals = requests([(at, tenant, 0, 1, 1.0, hold_s) for at, tenant, hold_s in work])
    since: dict[str, float] = {}
    for cycle in cluster(ORDERINGS[name], arrivals, max_preemptions=99).drive(seconds=600):
        since = {key: since.get(key, cycle.at) for key in cycle.in_quota_waiting}
        for key, first in since.items():
            assert cycle.at - first <= STOP_DELAY_S + MIN_HOLD_S + 1, f"{key} waits since {first}"


def test_a_quota_that_others_borrowed_is_given_back_at_once() -> None:
    """B has all four devices when A comes with two runs: A gets its quota when B's have stopped, B keeps the rest."""
    borrowed = [(0, "b", 0, 1, 1.0, 60)] * 4
    claimed = [(10, "a", 0, 1, 1.0, 60)] * 2
    cycles = cluster(fifo, requests([*borrowed, *claimed])).drive(seconds=300)
    assert [cycle.held["a"] for cycle in cycles[9:14]] == [0, 0, 0, 0, 2]
    assert [cycle.held["b"] for cycle in cycles[9:14]] == [4, 4, 4, 4, 2]
