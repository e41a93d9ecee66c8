"""fifo: first come, first served."""

from dataclasses import replace

from orchestrator.ordering import fifo
from orchestrator.schema import Snapshot
from tests.unit.orchestrator.packing.test_every_policy import ask


def test_earlier_requests_go_first() -> None:
    early, late = (replace(r, queued_at=at) for r, at in zip(ask([(1, 1.0, 1)] * 2), (1.0, 2.0), strict=True))
    assert fifo(Snapshot(at=3.0, queue=(late, early))) == [early, late]


def test_equal_requests_keep_the_queues_order() -> None:
    queue = tuple(ask([(1, 1.0, 1)] * 3))
    assert fifo(Snapshot(at=3.0, queue=queue)) == list(queue)
