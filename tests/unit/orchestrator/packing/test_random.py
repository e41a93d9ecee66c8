"""random: anywhere that fits, by a seed."""

from collections import Counter

from orchestrator.packing import Random
from orchestrator.snapshot import Room
from tests.unit.orchestrator.packing.cases import asking, demand, device_ids, node, snapshot

NODES = [node(node_id, 4) for node_id in "abcd"]


def drawn(first: int, seed: int = 0) -> tuple[str, ...]:
    """Where the only request goes, of a stage of this number."""
    return device_ids(Random(seed=seed)(snapshot(Room(NODES)), asking(demand(1, 0.5), first=first)))[0]


def test_every_node_is_as_likely() -> None:
    counts = Counter(drawn(first)[0][0] for first in range(400))
    assert set(counts) == set("abcd")
    # Six standard deviations of a binomial of 400 draws with a chance of a quarter.
    assert all(abs(count - 100) < 52 for count in counts.values())


def test_every_device_is_as_likely() -> None:
    counts = Counter(drawn(first)[0][-1] for first in range(400))
    assert set(counts) == set("0123")
    assert all(abs(count - 100) < 52 for count in counts.values())


def test_another_seed_draws_otherwise() -> None:
    assert [drawn(first, seed=0) for first in range(20)] != [drawn(first, seed=1) for first in range(20)]


def test_the_stage_first_in_line_decides_what_is_drawn() -> None:
    assert [drawn(first) for first in range(20)] == [drawn(first) for first in range(20)]


def test_nodes_that_do_not_fit_are_never_drawn() -> None:
    nodes = [node("a", 4, model="A"), node("b", 4, model="B"), node("c", 1, model="B")]
    placements = [Random()(snapshot(Room(nodes)), asking(demand(2, models="B"), first=n)) for n in range(30)]
    assert {p.node_ids for (p,) in placements} == {("b", "b")}
