"""fifo: first come, first served."""

from itertools import islice

from orchestrator.ordering import fifo, with_aging
from orchestrator.snapshot import Snapshot
from orchestrator.state.queue import WaitingRequests
from tests.unit.orchestrator.ordering.requests import keys, waiting
from tests.unit.orchestrator.state.test_queue import queue_of


def test_requests_go_as_they_came() -> None:
    queue = waiting("early", at=1.0), waiting("late", at=2.0)
    assert keys(fifo(Snapshot(at=3.0, queue=queue))) == ["early", "late"]


def test_equal_requests_keep_the_queues_order() -> None:
    queue = tuple(waiting(str(n)) for n in range(3))
    assert list(fifo(Snapshot(at=3.0, queue=queue))) == list(queue)


def test_nobody_is_looked_at_behind_those_that_are_wanted() -> None:
    state = queue_of(at=[0.0, 1.0, 2.0, 3.0])
    aged = with_aging(fifo, max_wait_s=5.0)
    first = list(islice(aged(Snapshot(at=6.5, queue=WaitingRequests(state.queue))), 2))
    assert [request.queued_at for request in first] == [0.0, 1.0]
    made = [record.stage.key for record in state.queue.records() if record.request is not None]
    assert made == [request.stage_key for request in first]
