"""priority: the more important first."""

from orchestrator.ordering import priority
from orchestrator.snapshot import Snapshot
from tests.unit.orchestrator.ordering.requests import keys, waiting


def test_higher_priority_goes_before_an_earlier_arrival() -> None:
    queue = waiting("early", at=0.0), waiting("urgent", at=1.0, priority=5), waiting("idle", at=0.0, priority=-1)
    assert keys(priority(Snapshot(at=2.0, queue=queue))) == ["urgent", "early", "idle"]


def test_equal_priorities_go_by_arrival() -> None:
    queue = waiting("late", at=2.0, priority=1), waiting("early", at=1.0, priority=1)
    assert keys(priority(Snapshot(at=3.0, queue=queue))) == ["early", "late"]


def test_full_ties_keep_the_queues_order() -> None:
    queue = tuple(waiting(str(n), priority=1) for n in range(3))
    assert priority(Snapshot(at=3.0, queue=queue)) == list(queue)
