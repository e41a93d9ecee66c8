"""never: every trial runs to its full budget."""

from orchestrator.stopping import never
from tests.unit.orchestrator.builders import warm_started


def test_no_trial_is_stopped() -> None:
    assert list(never(warm_started(3))) == []
