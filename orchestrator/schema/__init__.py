"""The vocabulary as frozen dataclasses. A leaf: it imports the standard library only, so every room may import it."""

from orchestrator.schema.experiment import (
    Assignment,
    Outcome,
    Stage,
    StageState,
    Study,
    Trial,
    TrialState,
    Variant,
)
from orchestrator.schema.resources import (
    Allocation,
    Demand,
    Device,
    DeviceKind,
    FreeDevice,
    Placement,
    Request,
    Snapshot,
)

__all__ = [
    "Allocation",
    "Assignment",
    "Demand",
    "Device",
    "DeviceKind",
    "FreeDevice",
    "Outcome",
    "Placement",
    "Request",
    "Snapshot",
    "Stage",
    "StageState",
    "Study",
    "Trial",
    "TrialState",
    "Variant",
]
