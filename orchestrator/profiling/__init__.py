"""What a trial's stage spends its time on: see README.md."""

from orchestrator.profiling.choosing import Choice, choose
from orchestrator.profiling.running import Profile, run

__all__ = ["Choice", "Profile", "choose", "run"]
