"""never: what runs is left to run."""

from orchestrator.ordering import priority
from orchestrator.sharing import PREEMPTIONS
from tests.unit.orchestrator.ordering.requests import waiting
from tests.unit.orchestrator.sharing.snapshots import ids, resident, snapshot


def test_nobody_makes_room() -> None:
    urgent = waiting("urgent", priority=9)
    full = snapshot(nodes=(1,), residents=[resident(waiting("x"), ids("a", 0))], queue=[urgent])
    never = PREEMPTIONS["never"]({"max_preemptions": 3, "min_hold_s": 0.0})
    assert list(never(full, [urgent], priority)) == []
