"""What work asks of devices, what devices there are, and who holds what.

Units are in the names: `_bytes`, `_s` (seconds), `share` (fraction of one device, 0 < share <= 1).
"""

from dataclasses import dataclass
from enum import StrEnum


class DeviceKind(StrEnum):
    """`cpu`: one CPU core stands in for a GPU, and every report says so."""

    CPU = "cpu"
    CUDA = "cuda"


CUDA_CONTEXT_BYTES = 800_000_000
"""What a process has on a GPU beside what its allocator holds: the context and the libraries' workspaces. It is part of
every `memory_bytes` of a GPU. A rounded figure; it has not been measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU, or one CPU core standing in for one. `index` is the device's number on its node."""

    device_id: str
    node_id: str
    index: int
    kind: DeviceKind
    memory_bytes: int
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine with its devices. `cpus` (cores) and `host_memory_bytes` of 0 are not known, and then no limit."""

    node_id: str
    devices: tuple[Device, ...]
    cpus: float = 0.0
    host_memory_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one stage run asks for: `devices` devices, `share` and `memory_bytes` of each of them, and of their node
    `cpus` cores and `host_memory_bytes` in all.

    `devices` is 0 for work on the host alone. `models`: the device models that will do, none named is any. `max_nodes`:
    over how many nodes a gang may reach; it then takes of each node in proportion to the devices that it has there.
    `kind` names what the stage does, for those who learn what slows it down; `max_slowdown` is how many times longer
    than alone its steps may take beside others, 0 for any number.

    `phases`: what each of its steps does in turn, for those who have bundles take turns on a device. So many
    `parkable_bytes` of its memory it needs only while it learns, and can have in host memory otherwise. One that does
    has `away_bytes` more than `memory_bytes` of its device while it learns.
    """

    devices: int
    share: float
    memory_bytes: int
    cpus: float = 0.0
    host_memory_bytes: int = 0
    models: tuple[str, ...] = ()
    max_nodes: int = 1
    kind: str = ""
    max_slowdown: float = 0.0
    phases: tuple[str, ...] = ()
    parkable_bytes: int = 0
    away_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A stage run on devices: the answer of a packing policy to one `Request`.

    `node_ids` names the node of each device, or the one node of work without devices. `cpus` and `host_memory_bytes`
    are what it holds of them in all. `stack_id` names the fused program that it joins; "": a program of its own.
    `phases`, `away_bytes`: see `Demand`.
    """

    stage_key: str
    device_ids: tuple[str, ...]
    share: float
    memory_bytes: int
    node_ids: tuple[str, ...] = ()
    cpus: float = 0.0
    host_memory_bytes: int = 0
    stack_id: str = ""
    phases: tuple[str, ...] = ()
    away_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """One line of the ledger of device-seconds: open while `closed_at` is None.

    `memory_bytes` of each device are given, `estimated_memory_bytes` were thought to be needed (`estimated_from` says
    why), `peak_memory_bytes` (0 while unknown) were used. `expected_s` is how long the run was expected to hold its
    devices when it was placed, None if nobody could say; nine in ten runs were expected between `expected_low_s` and
    `expected_high_s`. `utilisation`: see `events.StageMeasured`. `stack_id`: see `Placement`.
    """

    bundle_id: str
    study_id: str
    stage_key: str
    trial_ids: tuple[str, ...]
    device_ids: tuple[str, ...]
    share: float
    opened_at: float
    closed_at: float | None = None
    busy_s: float = 0.0
    memory_bytes: int = 0
    estimated_memory_bytes: int = 0
    estimated_from: str = ""
    peak_memory_bytes: int = 0
    expected_s: float | None = None
    expected_low_s: float | None = None
    expected_high_s: float | None = None
    utilisation: float | None = None
    stack_id: str = ""

    def device_seconds(self, now: float) -> float:
        """Device count x share x wall time held [device-seconds]; an open line is counted up to `now`."""
        end = now if self.closed_at is None else self.closed_at
        return len(self.device_ids) * self.share * max(0.0, end - self.opened_at)

    def busy_device_seconds(self) -> float:
        """The part of the hold that the stage spent computing (its own timer, `busy_s`) [device-seconds]."""
        return len(self.device_ids) * self.share * self.busy_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A stage run that is ready and waits for devices, on behalf of the trials that need its output.

    `tenant` and `priority` are those of the trial that would lead it. `queued_at` is when it first asked: a run that
    had to make room keeps its place. `expected_s` is how long it is expected to hold its devices [s], None while
    nobody can say. `preemptions` is how often it had to make room. Requests of one `fusion_key` may run in one stack;
    "" runs alone.
    """

    stage_key: str
    study_id: str
    trial_ids: tuple[str, ...]
    demand: Demand
    queued_at: float
    tenant: str = "default"
    priority: int = 0
    expected_s: float | None = None
    preemptions: int = 0
    fusion_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeDevice:
    """A device and what is left of it."""

    device: Device
    free_share: float
    free_memory_bytes: int
    residents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """A bundle on its devices. `request` is what it asked for, as it would ask again if it had to leave now.

    `unsaved_s`: how long ago its last checkpoint (or start) was [s]. `expected_end_at`: None while nobody can say.
    `stopping`: it was asked to leave.
    """

    bundle_id: str
    placement: Placement
    request: Request
    opened_at: float
    unsaved_s: float = 0.0
    expected_end_at: float | None = None
    stopping: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What all nodes together have, or what somebody holds of it. Devices count by share."""

    devices: float = 0.0
    cpus: float = 0.0
    host_memory_bytes: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A group of users with a claim on the cluster.

    `quota`: devices (fractions count) that are theirs whenever they want them; None: no limit and no claim.
    `borrowing_limit`: how many devices beyond the quota they may hold while nobody claims them; None: any number.
    `weight`: their part under fair sharing. `max_priority`: the highest that their studies may ask for.
    """

    name: str
    weight: float = 1.0
    quota: float | None = None
    borrowing_limit: float | None = None
    max_priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantUse:
    """What a tenant holds now, and what it has used: resource-seconds that count less the older they are."""

    tenant: Tenant
    held: Capacity
    used: Capacity


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What a trial is charged beside its own seats, and for which stacks.

    `vacated_s` of the seats that others left, `fused_s` in stacks in all, vacated included [device-seconds]; the
    `stack_ids` in the order in which it came to them, and the most members that one of them had.
    """

    vacated_s: float = 0.0
    fused_s: float = 0.0
    stack_ids: tuple[str, ...] = ()
    width: int = 0


NO_CHARGE = Charge()
