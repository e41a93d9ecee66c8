"""What devices this node has. Never makes a CUDA context, never imports torch."""

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from orchestrator.ports import ClusterUnavailable
from orchestrator.schema import Device, DeviceKind

_CGROUP_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_CGROUP_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_NVIDIA_SMI_TIMEOUT_S = 20
_MIB = 1 << 20
_NO_GPU = ("", "-1", "NoDevFiles")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU as the driver (NVML) counts it."""

    index: int
    uuid: str
    model: str
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """`cores`: the CPU cores this process may use. `gpus`: those visible to it, none on a machine without."""

    cores: tuple[int, ...]
    host_memory_bytes: int
    gpus: tuple[Gpu, ...] = ()

    @property
    def kind(self) -> DeviceKind:
        """GPUs where there are any; else each core stands in for one."""
        return DeviceKind.CUDA if self.gpus else DeviceKind.CPU

    def devices(self, node_id: str, limit: int = 0) -> tuple[Device, ...]:
        """The first `limit` devices (0: all). Raises ClusterUnavailable if there are fewer.

        On cpu `index` n stands for the nth of `cores`, with an equal part of the host's memory each.
        """
        if self.gpus:
            found = [(gpu.index, gpu.memory_bytes, gpu.model) for gpu in self.gpus]
        else:
            memory_bytes = self.host_memory_bytes // len(self.cores)
            found = [(index, memory_bytes, "CPU core") for index in range(len(self.cores))]
        require_devices(limit, len(found), self.kind)
        return tuple(
            Device(
                device_id=f"{node_id}/{self.kind.value}{index}",
                node_id=node_id,
                index=index,
                kind=self.kind,
                memory_bytes=memory_bytes,
                model=model,
            )
            for index, memory_bytes, model in found[: limit or None]
        )


def require_devices(wanted: int, found: int, kind: DeviceKind) -> None:
    """Raises ClusterUnavailable, naming field, value and what would do, if `wanted` devices can't be had."""
    noun = "CPU cores that stand in for GPUs" if kind is DeviceKind.CPU else "GPUs"
    if found < 1:
        raise ClusterUnavailable(f"cluster.devices={wanted}: there are no {noun} to take")
    if wanted < 0 or wanted > found:
        raise ClusterUnavailable(
            f"cluster.devices={wanted}: there are {found} {noun}; choose 1 to {found}, or 0 for all of them"
        )


def require_gang(wanted: int, largest_node: int) -> None:
    """Raises ClusterUnavailable if no node has the `wanted` devices that one bundle asks for."""
    if wanted > largest_node:
        raise ClusterUnavailable(
            f"cluster.devices_per_trial={wanted}: a trial's devices are on one node, and the largest node has "
            f"{largest_node}; use at most that many"
        )


def take_inventory() -> Inventory:
    """Look at this node as this process may use it: affinity, cgroup limits, CUDA_VISIBLE_DEVICES.

    Raises ClusterUnavailable as `visible` does.
    """
    cores = allowed_cores()
    return Inventory(
        cores=cores,
        host_memory_bytes=min([psutil.virtual_memory().total, *_cgroup_memory_limits()]),
        gpus=visible(query_gpus(), os.environ),
    )


def allowed_cores() -> tuple[int, ...]:
    """The cores of this process's affinity, cut to what the cgroup's CPU quota pays for (at least one)."""
    if sys.platform == "linux":
        cores = tuple(sorted(os.sched_getaffinity(0)))
    else:
        cores = tuple(range(os.cpu_count() or 1))
    return cores[: _cgroup_cores(_CGROUP_CPU_QUOTA) or None]


def _cgroup_cores(quota_file: Path) -> int:
    """Whole cores that a cgroup's quota pays for, at least 1; 0 without a quota."""
    try:
        quota_us, period_us = quota_file.read_text().split()
    except (OSError, ValueError):
        return 0
    return 0 if quota_us == "max" else max(1, int(quota_us) // int(period_us))


def _cgroup_memory_limits() -> list[int]:
    limits = []
    for path in _CGROUP_MEMORY_LIMITS:
        try:
            limits.append(int(path.read_text()))
        except (OSError, ValueError):
            continue  # no such controller here, or "max"
    return limits


def query_gpus() -> tuple[Gpu, ...]:
    """All GPUs the driver knows, through nvidia-smi, which asks NVML. None without a driver or a GPU."""
    if shutil.which("nvidia-smi") is None:
        return ()
    command = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_NVIDIA_SMI_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()  # a driver without a working GPU: this node has none to offer
    return parse_gpus(answer.stdout)


def parse_gpus(listing: str) -> tuple[Gpu, ...]:
    """GPUs of a CSV listing with the columns index, uuid, name, memory [MiB]; lines without numbers are skipped."""
    rows = [row for row in csv.reader(listing.splitlines(), skipinitialspace=True) if len(row) == 4]
    return tuple(
        Gpu(index=int(index), uuid=uuid, model=model, memory_bytes=int(memory) * _MIB)
        for index, uuid, model, memory in rows
        if index.isdigit() and memory.isdigit()
    )


def visible(gpus: Sequence[Gpu], environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Those that CUDA_VISIBLE_DEVICES lets through, in its order; it ends at the first entry that names no GPU.

    Raises ClusterUnavailable if that is the very first one (a MIG instance, a mistyped number): GPUs were meant, and
    training on cores in their place would go unnoticed. "", "-1" and "NoDevFiles" are how one asks for none.
    """
    setting = environment.get("CUDA_VISIBLE_DEVICES")
    if setting is None or not gpus:
        return tuple(gpus)
    chosen: list[Gpu] = []
    for entry in (part.strip() for part in setting.split(",")):
        by_uuid = entry.startswith("GPU-")  # it may be cut short as long as it stays unique
        named = [gpu for gpu in gpus if (gpu.uuid.startswith(entry) if by_uuid else str(gpu.index) == entry)]
        if len(named) != 1:
            break
        chosen += named
    if not chosen and setting not in _NO_GPU:
        raise ClusterUnavailable(
            f"CUDA_VISIBLE_DEVICES={setting!r}: names no GPU of this node; use numbers from 0 to {len(gpus) - 1} or "
            'UUIDs as `nvidia-smi -L` lists them (MIG instances can\'t be used), or "" to train on CPU cores'
        )
    return tuple(chosen)
