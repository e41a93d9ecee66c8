"""Vectorised packing equals packing device by device, ties and rounding included, while bundles come and go."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.packing import PACKINGS, fragmentation
from orchestrator.snapshot import Room
from tests.unit.orchestrator.packing import oracles
from tests.unit.orchestrator.packing.cases import EXPECTED, NODES, REPEATING, asking, snapshot

PLAIN = {
    "best_fit": oracles.plain_best_fit,
    "dot_product": oracles.plain_dot_product,
    "exclusive": oracles.plain_exclusive,
    "first_fit": oracles.plain_first_fit,
    "gpu_clustering": oracles.plain_gpu_clustering,
    "gpu_packing": oracles.plain_gpu_packing,
}


def agree(name: str, plain: Callable, nodes: list, queues: list, leaving: int, expected: dict) -> None:
    """After each queue every `leaving`-th placement is given back."""
    room, plain_room = Room(nodes), oracles.PlainRoom(nodes)
    sitting: list = []
    for queue in queues:
        requests = asking(*(replace(demand, max_nodes=1, kind="") for demand in queue))
        placements = PACKINGS[name]()(snapshot(room, expected), requests)
        assert placements == oracles.served(plain_room, requests, plain, whole=name == "exclusive")
        for placement in placements:
            room.take(placement)
        sitting += placements
        for placement in sitting[::leaving]:
            room.give_back(placement)
            plain_room.take(placement, -1)
        del sitting[::leaving]


CASES = {"nodes": NODES, "queues": REPEATING, "leaving": st.integers(1, 4)}


@pytest.mark.parametrize("name", sorted(PLAIN))
@settings(max_examples=100, deadline=None)
@given(**CASES)
def test_equals_packing_device_by_device(name: str, nodes: list, queues: list, leaving: int) -> None:
    agree(name, PLAIN[name], nodes, queues, leaving, {})


@settings(max_examples=100, deadline=None)
@given(**CASES, expected=EXPECTED)
def test_fragmentation_equals_counting_fragments_one_by_one(
    nodes: list, queues: list, leaving: int, expected: dict
) -> None:
    agree("fragmentation", partial(oracles.plain_fragmentation, expected=expected), nodes, queues, leaving, expected)


@settings(max_examples=100, deadline=None)
@given(**CASES, expected=EXPECTED)
def test_fragmentation_is_the_same_where_one_node_answers_for_all_that_are_like_it(
    nodes: list, queues: list, leaving: int, expected: dict
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fragmentation, "_FEW", 0)
        agree(
            "fragmentation", partial(oracles.plain_fragmentation, expected=expected), nodes, queues, leaving, expected
        )
