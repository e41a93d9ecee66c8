"""How busy stages are expected to keep their share."""

from orchestrator.history import Utilisation
from tests.unit.orchestrator.history.stages import of


def test_a_stage_is_as_busy_as_its_likes_on_average() -> None:
    use = Utilisation()
    for bundle_id, busy in (("a", 0.6), ("b", 0.8)):
        use.observe(bundle_id, of("sft", lr=len(bundle_id)), busy)
    expected = use.expected(of("sft", lr=9.0))
    assert expected is not None
    assert abs(expected.value - 0.7) < 1e-9
    assert expected.low < 0.7 < expected.high


def test_what_nobody_could_say_teaches_nothing() -> None:
    use = Utilisation()
    use.observe("a", of("sft"), None)
    assert use.expected(of("sft")) is None
