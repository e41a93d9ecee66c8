"""What the next run will take, and how sure that is."""

import math
import random

import pytest

from orchestrator.history.likeness import Likeness, Likenesses
from orchestrator.history.observations import NEAREST, SAME_SHAPE, SAME_STAGE, Expected, Observations
from tests.unit.orchestrator.history.stages import of

LIKENESSES = Likenesses()


def like(width: int = 64, lr: float = 1e-3, algorithm: str = "sft", task: str = "addition") -> Likeness:
    return LIKENESSES.of(of(algorithm, lr=lr, width=width, task=task))


def after(*amounts: float, spread_over: int = 1) -> Observations:
    """One run of its own stage for each amount, all of one shape."""
    seen = Observations()
    for number, amount in enumerate(amounts):
        seen.observe(str(number), like(lr=number / spread_over), 1.0, amount)
    return seen


def expected(seen: Observations, likeness: Likeness, work: float = 1.0) -> Expected:
    found = seen.expected(likeness, work)
    assert found is not None
    return found


def test_the_same_stage_tells_more_than_its_shape() -> None:
    seen = after(1.0, 3.0)
    assert (expected(seen, like(lr=1.0)).value, expected(seen, like(lr=1.0)).basis) == (3.0, SAME_STAGE)
    assert (expected(seen, like(lr=7.0)).value, expected(seen, like(lr=7.0)).basis) == (2.0, SAME_SHAPE)


def test_a_stage_that_was_not_seen_whole_goes_by_its_shape() -> None:
    seen = after(1.0, 3.0)
    assert expected(seen, like(lr=1.0), work=2.0).basis == SAME_SHAPE


def test_the_nearest_shapes_count_the_more_the_nearer_they_are() -> None:
    seen = Observations()
    for width, amount in ((63, 1.0), (255, 4.0)):
        seen.observe(str(width), like(width=width), 1.0, amount)
    found = expected(seen, like(width=127))
    assert (found.basis, found.runs) == (NEAREST, 2)
    assert found.value == pytest.approx(2.5)
    assert found.distance == pytest.approx(1.0)
    assert expected(seen, like(width=62)).value < 2.0


def test_other_algorithms_count_only_while_there_is_none_of_the_same() -> None:
    seen = Observations()
    seen.observe("a", like(algorithm="grpo"), 1.0, 9.0)
    assert expected(seen, like(width=1000)).value == 9.0
    seen.observe("b", like(width=2), 1.0, 1.0)
    assert expected(seen, like(width=1000)).value == 1.0


def test_the_interval_narrows_with_runs_that_agree() -> None:
    widths = []
    for count in (1, 3, 10, 100):
        found = expected(after(*[5.0] * count), like(lr=-1.0))
        assert found.low < found.value < found.high
        widths.append(found.high / found.low)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 1.2


def test_the_interval_widens_with_distance() -> None:
    seen = after(*[5.0] * 50)
    widths = [expected(seen, like(width=width)).high for width in (64, 128, 256, 1024)]
    assert widths == sorted(set(widths))


@pytest.mark.parametrize("spread", [0.1, 0.5])
def test_nine_in_ten_runs_fall_into_the_interval(spread: float) -> None:
    """Of the next run after 12 log-normal ones, over 1,000 repetitions."""
    generator = random.Random(0)
    inside = 0
    for _ in range(1000):
        runs = [10.0 * math.exp(generator.gauss(0.0, spread)) for _ in range(13)]
        found = expected(after(*runs[:12], spread_over=100), like(lr=-1.0))
        inside += found.low <= runs[12] <= found.high
    assert 0.85 <= inside / 1000 <= 0.99


def test_what_was_observed_first_is_forgotten_when_there_is_too_much() -> None:
    seen = Observations()
    for width in range(1000):
        seen.observe(str(width), like(width=width), 1.0, 1.0 + width)
        seen.settle(str(width))
    assert expected(seen, like(width=999)).value == 1000.0
    assert expected(seen, like(width=3, lr=9.0)).basis == NEAREST
    assert expected(seen, like(width=998, lr=9.0)).basis == SAME_SHAPE
