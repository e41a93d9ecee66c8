"""What each process of a launch is told and shown, on cores and on GPUs."""

from dataclasses import replace

import pytest

from cluster.assignments import seats
from cluster.inventory import Gpu, Inventory, visible
from cluster.outputs import Artifacts
from cluster.phases import GateFolders
from orchestrator.schema import Device, DeviceKind
from tests.unit.cluster.launches import make_launch

CORES = tuple(range(8, 16))
GPUS = tuple(Gpu(index=i, uuid=f"GPU-{i}{i}", model="H100", memory_bytes=80 << 30) for i in range(4))

GPU_DEVICES = tuple(
    Device(device_id=f"node/gpu{i}", node_id="node", index=i, kind=DeviceKind.CUDA, memory_bytes=80 << 30)
    for i in range(2)
)


def seats_of(devices, tmp_path, share=1.0, memory_bytes=0, node_devices=4):
    launch = make_launch(devices)
    placement = replace(launch.placement, share=share, memory_bytes=memory_bytes)
    return seats(replace(launch, placement=placement), Artifacts(tmp_path), CORES, node_devices)


def gpu_devices(setting):
    gpus = visible(GPUS, {"CUDA_VISIBLE_DEVICES": setting})
    return Inventory(cores=CORES, host_memory_bytes=8 << 30, gpus=gpus).devices("node")


@pytest.mark.parametrize("setting", ["2,3", "GPU-22,GPU-33"])
def test_a_bundle_sees_the_gpu_it_was_given_of_those_that_ray_or_the_user_left(setting, tmp_path):
    """The driver's own numbers, whatever the agent's CUDA_VISIBLE_DEVICES calls them: the child's replaces it."""
    (first,) = seats_of(gpu_devices(setting)[:1], tmp_path)
    (second,) = seats_of(gpu_devices(setting)[1:], tmp_path)
    assert first.environment["CUDA_VISIBLE_DEVICES"] == "2"
    assert second.environment["CUDA_VISIBLE_DEVICES"] == "3"


def test_each_process_of_a_gang_sees_its_own_gpu_only(tmp_path):
    gang = seats_of(gpu_devices("3,1"), tmp_path)
    assert [seat.environment["CUDA_VISIBLE_DEVICES"] for seat in gang] == ["3", "1"]
    assert [(seat.assignment.rank, seat.assignment.world_size) for seat in gang] == [(0, 2), (1, 2)]
    assert len({seat.assignment.rendezvous for seat in gang}) == 1
    assert gang[0].assignment.rendezvous


def test_two_bundles_on_one_gpu_have_their_parts_of_it_and_of_the_cores(tmp_path):
    (seat,) = seats_of(gpu_devices("0"), tmp_path, share=0.5, memory_bytes=40 << 30, node_devices=2)
    assert seat.assignment.share == 0.5
    assert seat.assignment.memory_bytes == 40 << 30
    assert seat.assignment.threads == 2  # half of the four cores that one of two GPUs has
    assert seat.environment["OMP_NUM_THREADS"] == "2"
    assert seat.cores == ()


def test_a_bundle_on_a_core_is_pinned_to_it_has_one_thread_and_sees_no_gpu(tmp_path):
    device = Device(device_id="node/cpu3", node_id="node", index=3, kind=DeviceKind.CPU, memory_bytes=1 << 30)
    (seat,) = seats_of((device,), tmp_path, share=0.5)
    assert seat.cores == (CORES[3],)
    assert seat.assignment.threads == 1
    assert seat.environment["CUDA_VISIBLE_DEVICES"] == ""
    assert seat.assignment.rendezvous == ""


def test_bundles_that_take_turns_find_the_gates_of_their_device(tmp_path):
    gates = GateFolders()
    launches = [make_launch(GPU_DEVICES[n : n + 1], bundle_id=f"b{n}") for n in (0, 0, 1)]
    turns = [replace(launch, placement=replace(launch.placement, phases=("learn",))) for launch in launches]
    told = [seats(launch, Artifacts(tmp_path), CORES, 2, gates)[0].assignment.phase_dir for launch in turns]
    gates.remove()
    assert told[0] == told[1] != told[2]
    (other,) = seats(launches[0], Artifacts(tmp_path), CORES, 2, gates)
    assert other.assignment.phase_dir == ""


def test_who_parks_may_take_what_is_away_too(tmp_path):
    launch = make_launch(GPU_DEVICES[:1])
    placement = replace(launch.placement, memory_bytes=40 << 30, away_bytes=10 << 30)
    (seat,) = seats(replace(launch, placement=placement), Artifacts(tmp_path), CORES, 2)
    assert (seat.assignment.parks, seat.assignment.memory_bytes) == (True, 50 << 30)
