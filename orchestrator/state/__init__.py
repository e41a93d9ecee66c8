"""The event machine: what happened in, what to do about it out. Pure: no I/O and no clock of its own."""

from orchestrator.state.machine import SchedulerState
from orchestrator.state.records import Bundle
from orchestrator.state.validation import validate

__all__ = ["Bundle", "SchedulerState", "validate"]
