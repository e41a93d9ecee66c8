"""fifo: first come, first served."""

from orchestrator.ordering import fifo
from orchestrator.schema import Snapshot
from tests.unit.orchestrator.ordering.requests import keys, waiting


def test_earlier_requests_go_first() -> None:
    queue = waiting("late", at=2.0), waiting("early", at=1.0)
    assert keys(fifo(Snapshot(at=3.0, queue=queue))) == ["early", "late"]


def test_equal_requests_keep_the_queues_order() -> None:
    queue = tuple(waiting(str(n)) for n in range(3))
    assert fifo(Snapshot(at=3.0, queue=queue)) == list(queue)
