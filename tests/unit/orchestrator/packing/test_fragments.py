"""How much of what nodes have left the expected demands can't use."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from orchestrator.packing.fragments import VALUES, WEIGHTS, Fragments, Left, typical
from orchestrator.schema import Demand
from orchestrator.snapshot import Room
from tests.unit.orchestrator.packing.cases import GIB, demand, node, taken


def devices_worth(room: Room, expected: dict[Demand, float]) -> list[float]:
    """The fragments of each node, in devices."""
    measure = Fragments(room, typical(expected, 1.0))
    left = Left.now(room, np.arange(len(room.nodes)))
    return (measure.amounts(left) / measure.of_a_device).tolist()


def test_what_every_demand_can_use_is_no_fragment() -> None:
    assert devices_worth(Room([node("a", 2)]), {demand(1): 1, demand(2): 1, demand(1, 0.5): 1}) == [0.0]


def test_a_device_too_full_for_a_demand_is_a_fragment_for_it() -> None:
    room = taken(Room([node("a", 2)]), (["a/0"], 0.75))
    assert devices_worth(room, {demand(1, 0.5): 3, demand(1, 0.25): 1}) == [0.25 * 3 / 4]


def test_a_node_with_too_few_devices_is_all_fragments_for_a_gang() -> None:
    room = taken(Room([node("a", 3)]), (["a/0", "a/1"], 1.0))
    assert devices_worth(room, {demand(2): 1}) == [1.0]


def test_a_node_without_the_cores_is_all_fragments() -> None:
    assert devices_worth(Room([node("a", 2, cpus=2.0)]), {demand(1, cpus=4.0): 1}) == [2.0]


def test_a_node_without_the_host_memory_is_all_fragments() -> None:
    assert devices_worth(Room([node("a", 2, host_gib=2)]), {demand(1, host_gib=4): 1}) == [2.0]


def test_a_device_of_another_model_is_a_fragment() -> None:
    nodes = [node("a", 2, model="A"), node("b", 1, model="B"), node("c", 0)]
    assert devices_worth(Room(nodes), {demand(1, models="B"): 1}) == [2.0, 0.0, 0.0]


def test_a_device_without_the_memory_is_a_fragment() -> None:
    nodes = [node("a", 2, memory_gib=4), node("b", 1, memory_gib=8)]
    assert devices_worth(Room(nodes), {demand(1, gib=6): 1}) == [2.0, 0.0]


def test_for_work_on_the_host_all_devices_are_fragments() -> None:
    assert devices_worth(Room([node("a", 2)]), {demand(0, cpus=1.0): 1, demand(1): 1}) == [1.0]


def test_demands_that_differ_on_the_node_only_count_each_by_its_weight() -> None:
    room = Room([node("a", 1, cpus=2.0)])
    assert devices_worth(room, {demand(1, cpus=1.0): 3, demand(1, cpus=4.0): 1}) == [0.25]


def test_without_expectations_nothing_is_a_fragment() -> None:
    assert devices_worth(Room([node("a", 2)]), {}) == [0.0]


def test_a_decrease_on_the_host_is_what_the_amount_falls_by() -> None:
    room = taken(Room([node("a", 3, cpus=4.0), node("b", 3, cpus=1.0), node("c", 0, cpus=8.0)]), (["a/0"], 0.5))
    measure = Fragments(room, typical({demand(1, 0.75, cpus=2.0): 2, demand(3, cpus=1.0): 1, demand(0): 1}, 1.0))
    left = Left.now(room, np.arange(3))
    after = left.without_host_part(demand(0, cpus=3.0))
    decreases = measure.decreases_on_host(left, after)
    assert decreases.tolist() == (measure.amounts(left) - measure.amounts(after)).tolist()
    assert decreases.min() < decreases.max() == 0


def test_a_decrease_is_what_the_amount_falls_by() -> None:
    expected = {demand(1, 0.5): 2, demand(2): 1, demand(1, 0.25, gib=3, cpus=1.0): 1}
    room = taken(Room([node("a", 3, cpus=4.0), node("b", 3, cpus=1.0)]), (["a/0"], 0.5), (["b/2"], 0.25))
    measure, asked = Fragments(room, typical(expected, 1.0)), demand(1, 0.25, gib=2, cpus=1.0)
    left = Left.now(room, np.arange(2))
    granted = np.full((2, 3), 2 * GIB)
    decreases = measure.decreases(left, left.without_host_part(asked), 250_000, granted)
    for column in range(3):
        chosen = np.full((2, 1), column)
        after = left.without_host_part(asked).without(chosen, 250_000, granted[:, :1])
        assert decreases[:, column].tolist() == (measure.amounts(left) - measure.amounts(after)).tolist()


@pytest.mark.parametrize("seed", range(8))
def test_a_decrease_is_what_the_amount_falls_by_on_nodes_of_several_models_too(seed: int) -> None:
    random = Random(seed)
    nodes = [node(name, random.randint(1, 5), cpus=random.choice([2.0, 8.0]), memory_gib=4) for name in "abcd"]
    mixed = [replace(n, devices=tuple(replace(d, model=random.choice("AB")) for d in n.devices)) for n in nodes]
    room = taken(Room(mixed), *(([d.device_id], random.choice([0.0, 0.3, 0.5, 0.8])) for n in mixed for d in n.devices))
    wanted = [
        demand(
            d, s, gib=random.choice([0, 2, 3]), cpus=random.choice([1.0, 4.0]), models=random.choice(["", "A", "AB"])
        )
        for d in (0, 1, 2, 3)
        for s in (0.2, 0.5, 1.0)
        if d or s == 1.0
    ]
    measure = Fragments(room, typical({one: random.randint(1, 9) for one in wanted}, 1.0))
    asked, left = demand(1, 0.2, cpus=1.0), Left.now(room, np.arange(4))
    granted = np.full(left.share.shape, GIB)
    decreases = measure.decreases(left, left.without_host_part(asked), 200_000, granted)
    for column in range(left.share.shape[1]):
        after = left.without_host_part(asked).without(np.full((4, 1), column), 200_000, granted[:, :1])
        fell = measure.amounts(left) - measure.amounts(after)
        has = (left.share[:, column] >= 200_000) & (left.memory_bytes[:, column] >= GIB)
        assert decreases[has, column].tolist() == fell[has].tolist()


def test_neighbouring_values_count_as_the_largest_where_there_are_too_many() -> None:
    many = {demand(1, (1 + n) / (2 * VALUES), cpus=1.0 + n % 3): 1.0 for n in range(2 * VALUES)}
    found = typical(many, 1.0)
    assert {one.share for one, _ in found} == {(2 + 2 * n) / (2 * VALUES) for n in range(VALUES)}
    assert {one.cpus for one, _ in found} == {1.0, 2.0, 3.0}
    assert sum(weight for _, weight in found) == WEIGHTS


def test_demands_that_each_hardly_ever_come_count_together() -> None:
    many = {demand(1, 0.5, cpus=1.0 + n / 1000): 1.0 for n in range(4 * WEIGHTS)}
    assert sum(weight for _, weight in typical(many, 1.0)) == WEIGHTS


def test_the_most_frequent_demands_are_typical() -> None:
    expected = {demand(1, gib=1): 1, demand(1, gib=2): 6, demand(1, gib=3): 3}
    assert dict(typical(expected, 0.9)) == {demand(1, gib=2): 6667, demand(1, gib=3): 3333}


def test_of_equally_frequent_demands_those_that_came_first_are_typical() -> None:
    expected = {demand(1, gib=n): 1.0 for n in (3, 1, 2)}
    assert dict(typical(expected, 0.5)) == {demand(1, gib=3): WEIGHTS // 2, demand(1, gib=1): WEIGHTS // 2}


def test_a_demand_that_hardly_ever_comes_is_not_typical() -> None:
    assert dict(typical({demand(1): 1e9, demand(2): 1.0}, 1.0)) == {demand(1): WEIGHTS}
