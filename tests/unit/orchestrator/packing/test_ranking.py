"""The rankings that policies keep in a room."""

import numpy as np
import pytest

from orchestrator.packing import ranking
from orchestrator.packing.ranking import NOWHERE, Index, Ranking, Ranks, cpus_left, kept, share_left
from orchestrator.schema import Demand
from orchestrator.snapshot import Room
from tests.unit.orchestrator.packing.cases import demand, node, taken


class Asked:
    """Ranks nodes by their rows, and remembers which it was asked about."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []

    def __call__(self, room: Room, _: Demand, rows: Index) -> Ranks:
        self.rows.append(rows.tolist())
        return rows.astype(np.float64)


def test_only_changed_nodes_are_ranked_anew() -> None:
    room, asked = Room([node(node_id, 2) for node_id in "abcd"]), Asked()
    index = Ranking(room, demand(1), asked)
    index.now()
    taken(room, (["c/0"], 0.5), (["c/1"], 0.5), (["a/0"], 0.5))
    index.now()
    assert [sorted(rows) for rows in asked.rows] == [[0, 1, 2, 3], [0]]  # c is full: it isn't even asked about


def test_nothing_is_ranked_anew_where_nothing_changed() -> None:
    room, asked = Room([node("a", 2)]), Asked()
    index = Ranking(room, demand(1), asked)
    assert (index.first(), index.first(), len(asked.rows)) == (0, 0, 1)


def test_a_node_that_does_not_fit_ranks_nowhere() -> None:
    index = Ranking(Room([node("a", 1), node("b", 2)]), demand(2), Asked())
    assert index.now().tolist() == [NOWHERE, 1.0]


def test_all_nodes_are_ranked_anew_when_others_may_not_sit_together_any_more() -> None:
    room, asked = Room([node("a", 2), node("b", 2)]), Asked()
    index = Ranking(room, demand(1), asked)
    index.now()
    room.bar({"learn": ("rollout",)})
    index.now()
    assert asked.rows == [[0, 1], [0, 1]]


def test_only_so_many_rankings_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_KEPT", 4)
    room = Room([node("a", 1), node("b", 1)])
    for n in range(10):
        kept(room, "rule", demand(1, gib=n), lambda n=n: Ranking(room, demand(1, gib=n), Asked()))
    assert [d.memory_bytes // 2**30 for d in room.cache["rule"]] == [7, 8, 9]


def test_what_is_left_is_a_fraction_of_the_largest_node() -> None:
    room = taken(Room([node("a", 4, cpus=16.0), node("b", 2, cpus=64.0), node("c", 0)]), (["b/0"], 0.5))
    assert share_left(room, np.arange(3)).tolist() == [1.0, 0.375, 0.0]
    assert cpus_left(room, np.arange(3)).tolist() == [0.25, 1.0, 0.0]
