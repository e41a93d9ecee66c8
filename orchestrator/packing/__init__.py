"""Onto which device. A packing policy is a pure function from devices and ordered requests to placements."""

from collections.abc import Callable, Mapping, Sequence

from orchestrator.packing.best_fit import best_fit
from orchestrator.packing.exclusive import exclusive
from orchestrator.schema import FreeDevice, Placement, Request

PackingPolicy = Callable[[Sequence[FreeDevice], Sequence[Request]], Sequence[Placement]]

PACKINGS: Mapping[str, PackingPolicy] = {"best_fit": best_fit, "exclusive": exclusive}

__all__ = ["PACKINGS", "PackingPolicy", "best_fit", "exclusive"]
