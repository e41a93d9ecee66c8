"""What a node offers besides its devices."""

from cluster.agent_config import AgentConfig
from cluster.inventory import Gpu, Inventory

CORES = tuple(range(8))
GPUS = tuple(Gpu(index=i, uuid=f"GPU-{i}", model="H100", memory_bytes=80 << 30) for i in range(4))


def offer(tmp_path, gpus, devices):
    inventory = Inventory(cores=CORES, host_memory_bytes=64 << 30, gpus=gpus)
    joined = AgentConfig.of_node("node", inventory, devices, home=tmp_path, artifacts=tmp_path).joined(7.0)
    return joined.at, len(joined.devices), joined.cpus, joined.host_memory_bytes


def test_gpus_come_with_all_of_the_nodes_cores_and_memory(tmp_path):
    assert offer(tmp_path, GPUS, 2) == (7.0, 2, 8.0, 64 << 30)


def test_cores_that_stand_in_for_gpus_come_with_their_part_of_both(tmp_path):
    assert offer(tmp_path, (), 2) == (7.0, 2, 2.0, 16 << 30)
