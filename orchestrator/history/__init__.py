"""What stages took, learned from those that ran: time, memory, and how busy they kept their devices."""

from orchestrator.history.durations import Durations
from orchestrator.history.memory import MemoryUse, Peak
from orchestrator.history.observations import Expected
from orchestrator.history.utilisation import Utilisation

__all__ = ["Durations", "Expected", "MemoryUse", "Peak", "Utilisation"]
