"""Which stages train together as one program, and how many of them."""

from orchestrator.fusion.digest import fusion_digest
from orchestrator.fusion.planner import Fusion, Plan
from orchestrator.fusion.stacks import Stack, Stacks
from orchestrator.fusion.widths import Widths

__all__ = ["Fusion", "Plan", "Stack", "Stacks", "Widths", "fusion_digest"]
