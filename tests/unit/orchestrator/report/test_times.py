import pytest

from orchestrator.report.times import clock, span, when


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (89.0, "89 s"), (180.0, "3 min"), (9000.0, "2.5 h"), (259_200.0, "3 d")]
)
def test_spans_are_rounded_to_what_matters(seconds: float, words: str) -> None:
    assert span(seconds) == words


def test_a_time_says_how_far_away_it_is() -> None:
    assert when(1180.0, 1000.0).endswith(" (in 3 min)")
    assert when(820.0, 1000.0).endswith(" (3 min ago)")
    assert when(1000.2, 1000.0).endswith(" (now)")


def test_another_day_has_its_date() -> None:
    assert len(clock(1000.0, 1000.0)) == len("00:16:40")
    assert len(clock(1000.0, 1000.0 + 86_400.0)) == len("1970-01-01 00:16")
