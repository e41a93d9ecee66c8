"""Vectorised packing equals packing device by device, ties and rounding included."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.packing import PackingPolicy, best_fit, exclusive
from orchestrator.schema import FreeDevice
from tests.unit.orchestrator.builders import GIB, device
from tests.unit.orchestrator.packing.oracles import plain_best_fit, plain_exclusive
from tests.unit.orchestrator.packing.test_every_policy import ask

SHARES = [0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0]
DEVICES = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(SHARES), st.integers(0, 3), st.integers(0, 2)), max_size=12
)
REQUESTS = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from([0.1, 0.2, 0.3, 0.5, 1.0]), st.integers(0, 3)), max_size=20
)
POLICIES = pytest.mark.parametrize(("policy", "plain"), [(best_fit, plain_best_fit), (exclusive, plain_exclusive)])


def build(devices: list[tuple[str, float, int, int]]) -> list[FreeDevice]:
    """Devices of nodes that may lie in between each other, free or partly so."""
    return [
        FreeDevice(
            device=device(n, f"node-{node}", memory_bytes=4 * GIB),
            free_share=share,
            free_memory_bytes=gib * GIB,
            residents=residents,
        )
        for n, (node, share, gib, residents) in enumerate(devices)
    ]


@POLICIES
@settings(max_examples=400)
@given(devices=DEVICES, requests=REQUESTS)
def test_equals_packing_device_by_device(policy: PackingPolicy, plain: Callable, devices: list, requests: list) -> None:
    assert policy(build(devices), ask(requests)) == plain(build(devices), ask(requests))


@POLICIES
@pytest.mark.parametrize("nodes", [1, 5, 300])
def test_equals_it_on_wide_and_on_many_nodes(policy: PackingPolicy, plain: Callable, nodes: int) -> None:
    shares = [SHARES[n * 5 % len(SHARES)] for n in range(300)]
    devices = build([(str(n % nodes), share, n % 4, n % 2) for n, share in enumerate(shares)])
    requests = ask([(1, 0.1, 1), (1, 0.3, 0), (1, 0.1, 1), (2, 0.2, 1) if nodes < 300 else (1, 0.2, 1)] * 40)
    placements = policy(devices, requests)
    assert placements
    assert placements == plain(devices, requests)


@POLICIES
def test_without_devices_nothing_is_placed(policy: PackingPolicy, plain: Callable) -> None:
    assert policy([], ask([(1, 0.5, 1)])) == plain([], ask([(1, 0.5, 1)])) == []
