"""What one step of a member has to say: the values that a solo stage records, under the same names."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

Phase = Callable[[str], AbstractContextManager[None]]
"""What a step enters around each of its phases, by name: see `experiments.channel.Channel.phase`."""


def any_time(name: str) -> AbstractContextManager[None]:
    """The `Phase` of whoever takes turns with nobody."""
    return nullcontext()


@dataclass(frozen=True, slots=True)
class StepValues:
    """updates: `train/*` values of each optimizer step, at weight 1. step: those of the step itself, at weight 1.
    averages: means over the step's problems, weighted by `problems` of them. tokens: what the step computed. rounds:
    how many times it took a step's number of items from the data.
    """

    updates: list[dict[str, float]]
    tokens: int
    step: dict[str, float] = field(default_factory=dict)
    averages: dict[str, float] = field(default_factory=dict)
    problems: int = 0
    rounds: int = 1
