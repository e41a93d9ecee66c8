"""How much bundles that share a device slow each other down: measured, and acted upon. Pure."""

from orchestrator.interference.company import Companies, Neighbours, Seat, Slice
from orchestrator.interference.judging import Bar, Interference, Rules, Together, Undoing, undone
from orchestrator.interference.model import Slowdown, SlowdownModel

__all__ = [
    "Bar",
    "Companies",
    "Interference",
    "Neighbours",
    "Rules",
    "Seat",
    "Slice",
    "Slowdown",
    "SlowdownModel",
    "Together",
    "Undoing",
    "undone",
]
