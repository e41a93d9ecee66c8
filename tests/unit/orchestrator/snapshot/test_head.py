"""Head: the first requests of an order of service, taken as they are looked at."""

from collections.abc import Iterator

from orchestrator.schema import Request
from orchestrator.snapshot import Head
from tests.unit.orchestrator.ordering.requests import keys, waiting

LIMIT = 3


def service(taken: list[str]) -> Iterator[Request]:
    """Five requests; what was taken is written down."""
    for number in range(5):
        taken.append(str(number))
        yield waiting(str(number))


def test_no_more_is_taken_than_is_looked_at() -> None:
    taken: list[str] = []
    head = iter(Head(service(taken), LIMIT))
    assert (next(head).stage_key, taken) == ("0", ["0"])


def test_it_ends_at_the_limit_and_leaves_the_rest_where_it_was() -> None:
    order = service([])
    assert keys(list(Head(order, LIMIT))) == ["0", "1", "2"]
    assert next(order).stage_key == "3"


def test_it_can_be_gone_through_again_and_by_two_at_once() -> None:
    head = Head(service([]), LIMIT)
    first, second = iter(head), iter(head)
    assert [next(first).stage_key, next(second).stage_key, next(second).stage_key] == ["0", "0", "1"]
    assert keys(list(first)) == ["1", "2"]
    assert keys(list(head)) == ["0", "1", "2"]


def test_it_can_be_counted_indexed_and_cut() -> None:
    head = Head(service([]), LIMIT)
    assert (len(head), head[1].stage_key, keys(head[1:])) == (LIMIT, "1", ["1", "2"])


def test_a_short_order_is_its_own_head() -> None:
    assert len(Head(iter([waiting("x")]), LIMIT)) == 1
