"""What a policy may look at. It knows the schema only."""

from orchestrator.snapshot.arrivals import Arrivals
from orchestrator.snapshot.head import Head
from orchestrator.snapshot.room import (
    ALL_ROWS,
    NO_LIMIT,
    SHARE_UNITS,
    Counts,
    Mask,
    Room,
    Rows,
    Spot,
    milli_cpus,
    share_units,
)
from orchestrator.snapshot.snapshot import Snapshot

__all__ = [
    "ALL_ROWS",
    "NO_LIMIT",
    "SHARE_UNITS",
    "Arrivals",
    "Counts",
    "Head",
    "Mask",
    "Room",
    "Rows",
    "Snapshot",
    "Spot",
    "milli_cpus",
    "share_units",
]
