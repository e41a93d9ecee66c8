"""What work asks of devices, what devices there are, and who holds what.

Units are in the names: `_bytes`, `_s` (seconds), `share` (fraction of one device, 0 < share <= 1).
"""

from dataclasses import dataclass, field
from enum import StrEnum


class DeviceKind(StrEnum):
    """`cpu`: one CPU core stands in for a GPU, and every report says so."""

    CPU = "cpu"
    CUDA = "cuda"


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
class Demand:
    """What one stage run asks for: `devices` devices, `share` and `memory_bytes` of each of them."""

    devices: int
    share: float
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A stage run on devices: the answer of a packing policy to one `Request`."""

    stage_key: str
    device_ids: tuple[str, ...]
    share: float
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """One line of the ledger of device-seconds: open while `closed_at` is None."""

    bundle_id: str
    study_id: str
    stage_key: str
    trial_ids: tuple[str, ...]
    device_ids: tuple[str, ...]
    share: float
    opened_at: float
    closed_at: float | None = None
    busy_s: float = 0.0

    def device_seconds(self, now: float) -> float:
        """Device count x share x wall time held [device-seconds]; an open line is counted up to `now`."""
        end = now if self.closed_at is None else self.closed_at
        return len(self.device_ids) * self.share * max(0.0, end - self.opened_at)

    def busy_device_seconds(self) -> float:
        """The part of the hold that the stage spent computing (its own timer, `busy_s`) [device-seconds]."""
        return len(self.device_ids) * self.share * self.busy_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A stage run that is ready and waits for devices, on behalf of the trials that need its output."""

    stage_key: str
    study_id: str
    trial_ids: tuple[str, ...]
    demand: Demand
    queued_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeDevice:
    """A device and what is left of it."""

    device: Device
    free_share: float
    free_memory_bytes: int
    residents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything an ordering or packing policy may look at. `queue` is in order of arrival."""

    at: float
    devices: tuple[FreeDevice, ...] = ()
    residents: tuple[Placement, ...] = ()
    queue: tuple[Request, ...] = field(default=())
