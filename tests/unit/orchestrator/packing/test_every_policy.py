"""What holds for every packing policy, on random devices and queues."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.packing import PACKINGS
from orchestrator.schema import Demand, FreeDevice, Placement, Request
from tests.unit.orchestrator.builders import GIB, device

DEVICES = st.lists(
    st.builds(lambda node, used, gib: (node, used, gib), st.sampled_from("ab"), st.integers(0, 4), st.integers(0, 8)),
    max_size=6,
)
REQUESTS = st.lists(st.tuples(st.integers(1, 3), st.sampled_from([0.1, 0.25, 0.5, 1.0]), st.integers(0, 9)), max_size=8)


def build(devices: list[tuple[str, int, int]]) -> list[FreeDevice]:
    return [
        FreeDevice(
            device=device(n, f"node-{node}"), free_share=1 - used / 4, free_memory_bytes=gib * GIB, residents=used
        )
        for n, (node, used, gib) in enumerate(devices)
    ]


def ask(requests: list[tuple[int, float, int]]) -> list[Request]:
    return [
        Request(
            stage_key=str(n),
            study_id="study-1",
            trial_ids=(str(n),),
            demand=Demand(devices=count, share=share, memory_bytes=gib * GIB),
            queued_at=0.0,
        )
        for n, (count, share, gib) in enumerate(requests)
    ]


@pytest.mark.parametrize("policy", sorted(PACKINGS))
@given(devices=DEVICES, requests=REQUESTS)
def test_no_device_is_given_more_than_it_has(policy: str, devices: list, requests: list) -> None:
    free = {d.device.device_id: d for d in build(devices)}
    for placement in PACKINGS[policy](list(free.values()), ask(requests)):
        for device_id in placement.device_ids:
            left = free[device_id]
            assert left.free_share - placement.share >= -1e-9
            assert left.free_memory_bytes >= placement.memory_bytes
            free[device_id] = FreeDevice(
                device=left.device,
                free_share=left.free_share - placement.share,
                free_memory_bytes=left.free_memory_bytes - placement.memory_bytes,
                residents=left.residents + 1,
            )


@pytest.mark.parametrize("policy", sorted(PACKINGS))
@given(devices=DEVICES, requests=REQUESTS)
def test_a_gang_sits_on_distinct_devices_of_one_node(policy: str, devices: list, requests: list) -> None:
    free = build(devices)
    nodes = {d.device.device_id: d.device.node_id for d in free}
    wanted = {r.stage_key: r.demand.devices for r in ask(requests)}
    for placement in PACKINGS[policy](free, ask(requests)):
        assert len(set(placement.device_ids)) == wanted[placement.stage_key]
        assert len({nodes[device_id] for device_id in placement.device_ids}) == 1


@pytest.mark.parametrize("policy", sorted(PACKINGS))
@given(devices=DEVICES, requests=REQUESTS)
def test_nobody_overtakes(policy: str, devices: list, requests: list) -> None:
    placed = [p.stage_key for p in PACKINGS[policy](build(devices), ask(requests))]
    assert placed == [r.stage_key for r in ask(requests)][: len(placed)]


@pytest.mark.parametrize("policy", sorted(PACKINGS))
@given(devices=DEVICES, requests=REQUESTS)
def test_the_same_question_gets_the_same_answer(policy: str, devices: list, requests: list) -> None:
    def answer() -> list[Placement]:
        return list(PACKINGS[policy](build(devices), ask(requests)))

    assert answer() == answer()
