"""From a launch to what each of its processes is told, and where on the node it sits."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.outputs import Artifacts
from cluster.phases import GateFolders
from orchestrator.events import Launch
from orchestrator.schema import Assignment, Device, DeviceKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One process of a bundle: what it is told, the cores it is pinned to (none: anywhere), its variables."""

    assignment: Assignment
    cores: tuple[int, ...]
    environment: dict[str, str]


def seats(
    launch: Launch,
    artifacts: Artifacts,
    node_cores: Sequence[int],
    node_devices: int,
    gates: GateFolders | None = None,
) -> tuple[Seat, ...]:
    """One seat per device of the launch, by rank: rank r has the rth device to itself.

    On cpu a process is pinned to the core of its device. On cuda it sees its own GPU only and may use its GPU's part
    of the node's cores, in proportion to its share. One that takes turns does so through `gates`; without any it is
    alone on its device.
    """
    return tuple(
        _seat(launch, artifacts, rank, device, node_cores, node_devices, gates)
        for rank, device in enumerate(launch.devices)
    )


def _seat(
    launch: Launch,
    artifacts: Artifacts,
    rank: int,
    device: Device,
    node_cores: Sequence[int],
    node_devices: int,
    gates: GateFolders | None,
) -> Seat:
    cores: tuple[int, ...]
    if device.kind is DeviceKind.CPU:
        cores, threads = (node_cores[device.index],), 1
    else:
        cores = ()
        threads = max(1, int(len(node_cores) / node_devices * launch.placement.share))
    stage, gang = launch.stage, len(launch.devices) > 1
    assignment = Assignment(
        bundle_id=launch.bundle_id,
        stage=stage,
        output_dir=str(artifacts.incoming(launch.bundle_id)),
        parent_dir=str(artifacts.stage(stage.parent_key)) if stage.parent_key else "",
        checkpoint_dir=str(artifacts.checkpoint(launch.study_id, stage.key)),
        cache_dir=str(artifacts.cache()),
        device_kind=device.kind,
        device_indexes=(device.index,),
        share=launch.placement.share,
        threads=threads,
        memory_bytes=launch.placement.memory_bytes + launch.placement.away_bytes,
        host_memory_bytes=launch.placement.host_memory_bytes,
        rank=rank,
        world_size=len(launch.devices),
        rendezvous=str(artifacts.rendezvous(launch.bundle_id)) if gang else "",
        warm_dir=str(artifacts.start_of(stage) or ""),
        phase_dir=str(gates.of(device.index)) if gates is not None and launch.placement.phases else "",
        parks=launch.placement.away_bytes > 0,
    )
    environment = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    environment["CUDA_VISIBLE_DEVICES"] = str(device.index) if device.kind is DeviceKind.CUDA else ""
    return Seat(assignment=assignment, cores=cores, environment=environment)
