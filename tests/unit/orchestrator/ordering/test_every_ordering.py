"""What holds for every ordering policy as it is built from its config."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.ordering import ORDERINGS
from orchestrator.schema import Capacity, Request
from orchestrator.snapshot import Snapshot
from tests.unit.orchestrator.ordering.requests import waiting

CONFIG = {"max_wait_s": 50.0, "half_life_s": 100.0}
CAPACITY = Capacity(devices=8.0, cpus=64.0, host_memory_bytes=1e12)
QUEUES = st.lists(
    st.builds(
        lambda at, tenant, priority, expected_s: (at, tenant, priority, expected_s),
        st.integers(0, 99),
        st.sampled_from("abc"),
        st.integers(0, 3),
        st.none() | st.integers(1, 100),
    ),
    max_size=20,
)


def build(rows: list[tuple[int, str, int, int | None]]) -> tuple[Request, ...]:
    queue = [
        waiting(str(n), at=float(at), tenant=tenant, priority=priority, expected_s=expected_s)
        for n, (at, tenant, priority, expected_s) in enumerate(rows)
    ]
    return tuple(sorted(queue, key=lambda request: request.queued_at))


@pytest.mark.parametrize("name", sorted(ORDERINGS))
@given(rows=QUEUES)
def test_every_request_is_served_once(name: str, rows: list) -> None:
    snapshot = Snapshot(at=100.0, queue=build(rows), capacity=CAPACITY)
    ordered = ORDERINGS[name](CONFIG)(snapshot)
    assert sorted(r.stage_key for r in ordered) == sorted(r.stage_key for r in snapshot.queue)


@pytest.mark.parametrize("name", sorted(ORDERINGS))
@given(rows=QUEUES)
def test_who_waited_too_long_goes_first_by_arrival(name: str, rows: list) -> None:
    snapshot = Snapshot(at=100.0, queue=build(rows), capacity=CAPACITY)
    overdue = [r for r in snapshot.queue if snapshot.at - r.queued_at > CONFIG["max_wait_s"]]
    assert list(ORDERINGS[name](CONFIG)(snapshot))[: len(overdue)] == overdue
