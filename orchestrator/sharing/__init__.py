"""What tenants may hold: usage that fades, quotas with borrowing, and preemption that gives back what was borrowed."""

from orchestrator.sharing.changes import after_placements
from orchestrator.sharing.preemption import PREEMPTIONS, Preemption, PreemptionPolicy
from orchestrator.sharing.quota import admit
from orchestrator.sharing.usage import DecayedUsage

__all__ = ["PREEMPTIONS", "DecayedUsage", "Preemption", "PreemptionPolicy", "admit", "after_placements"]
