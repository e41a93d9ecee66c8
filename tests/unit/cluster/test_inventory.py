import pytest

from cluster.inventory import Gpu, Inventory, _cgroup_cores, parse_gpus, take_inventory, visible
from orchestrator.ports import ClusterUnavailable
from orchestrator.schema import DeviceKind

LISTING = """\
0, GPU-aaaa1111, NVIDIA H100 80GB HBM3, 81559
1, GPU-bbbb2222, NVIDIA H100 80GB HBM3, 81559
2, GPU-bbbb3333, NVIDIA H100 80GB HBM3, [N/A]
"""
GPUS = tuple(Gpu(index=i, uuid=f"GPU-{i}{i}", model="H100", memory_bytes=80 << 30) for i in range(4))


def test_this_node_has_devices():
    inventory = take_inventory()
    devices = inventory.devices("node")
    assert len(devices) == len(inventory.gpus or inventory.cores) > 0
    assert sum(device.memory_bytes for device in devices) > 0
    assert {device.kind for device in devices} == {inventory.kind}


def test_each_core_stands_in_for_a_gpu_with_its_part_of_the_memory():
    inventory = Inventory(cores=(2, 5, 7, 9), host_memory_bytes=8 << 30)
    devices = inventory.devices("node", limit=2)
    assert [(d.device_id, d.index, d.kind) for d in devices] == [
        ("node/cpu0", 0, DeviceKind.CPU),
        ("node/cpu1", 1, DeviceKind.CPU),
    ]
    assert {d.memory_bytes for d in devices} == {2 << 30}


def test_gpus_come_before_cores():
    inventory = Inventory(cores=(0, 1), host_memory_bytes=8 << 30, gpus=GPUS[1:3])
    assert [(d.device_id, d.index, d.memory_bytes) for d in inventory.devices("n")] == [
        ("n/cuda1", 1, 80 << 30),
        ("n/cuda2", 2, 80 << 30),
    ]


@pytest.mark.parametrize("limit", [3, -1])
def test_devices_that_are_not_there(limit):
    with pytest.raises(ClusterUnavailable, match=rf"cluster\.devices={limit}: there are 2 CPU cores .* 1 to 2, or 0"):
        Inventory(cores=(0, 1), host_memory_bytes=1 << 30).devices("node", limit)


def test_gpus_are_read_from_the_drivers_listing():
    assert parse_gpus(LISTING) == (
        Gpu(index=0, uuid="GPU-aaaa1111", model="NVIDIA H100 80GB HBM3", memory_bytes=81559 << 20),
        Gpu(index=1, uuid="GPU-bbbb2222", model="NVIDIA H100 80GB HBM3", memory_bytes=81559 << 20),
    )
    assert parse_gpus("No devices were found\n") == ()


@pytest.mark.parametrize(
    ("setting", "indexes"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("2,0", [2, 0]),
        ("1, 3", [1, 3]),
        ("1,9,2", [1]),
        ("-1", []),
        ("GPU-22", [2]),
        ("GPU-2", [2]),
        ("NoDevFiles", []),
    ],
)
def test_cuda_visible_devices_is_honoured(setting, indexes):
    environment = {} if setting is None else {"CUDA_VISIBLE_DEVICES": setting}
    assert [gpu.index for gpu in visible(GPUS, environment)] == indexes


@pytest.mark.parametrize("setting", ["GPU-", "7", "MIG-6f0c1a7e", "7,0"])
def test_a_setting_that_names_no_gpu_is_refused_rather_than_trained_on_cores(setting):
    with pytest.raises(ClusterUnavailable, match=f"CUDA_VISIBLE_DEVICES='{setting}': names no GPU of this node"):
        visible(GPUS, {"CUDA_VISIBLE_DEVICES": setting})
    assert visible((), {"CUDA_VISIBLE_DEVICES": setting}) == ()  # nor does it matter where there is none


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 0), ("250000 100000", 2), ("50000 100000", 1), ("?", 0)])
def test_a_cgroup_quota_limits_the_cores(tmp_path, quota, cores):
    path = tmp_path / "cpu.max"
    path.write_text(quota)
    assert _cgroup_cores(path) == cores
    assert _cgroup_cores(tmp_path / "absent") == 0
