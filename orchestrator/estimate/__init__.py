"""What a stage will ask of its devices, from first principles."""

from orchestrator.estimate.demand import footprint_of, oversubscribed, stage_demand, stage_demands, stated_memory_bytes
from orchestrator.estimate.stages import (
    ALONE_BYTES,
    PROCESS_BYTES,
    Footprint,
    shape_of,
    stage_footprint,
    stage_memory_bytes,
    zero_plan,
)

__all__ = [
    "ALONE_BYTES",
    "PROCESS_BYTES",
    "Footprint",
    "footprint_of",
    "oversubscribed",
    "shape_of",
    "stage_demand",
    "stage_demands",
    "stage_footprint",
    "stage_memory_bytes",
    "stated_memory_bytes",
    "zero_plan",
]
