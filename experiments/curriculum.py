"""Which problems a step trains on: an endless order, level after level where a task has a curriculum."""

from collections.abc import Sequence
from typing import Generic, TypeVar

from experiments.batches import DataOrder
from experiments.tasks import Problem, Task

Item = TypeVar("Item")
"""What one step trains on several of: a problem, or a pair of answers to one."""


class ProblemOrder(Generic[Item]):
    """An endless sequence of problems: those of each level up to its end, of the last one for ever.

    A pure function of seed and position, so a resumed stage needs its position only, and stages of different lengths
    share what they have in common.
    """

    def __init__(self, levels: Sequence[tuple[int, Sequence[Item]]], last: Sequence[Item], seed: int) -> None:
        """levels: (position at which it ends, its problems), in order; each begins where the one before ends."""
        starts = [0, *(end for end, _ in levels)]
        self._ends = starts[1:]
        problems = [*(level for _, level in levels), last]
        self._levels = [(start, some, DataOrder(len(some), seed)) for start, some in zip(starts, problems, strict=True)]

    def __getitem__(self, positions: slice) -> list[Item]:
        """The problems at positions [start, stop); a step of other than 1 is not supported."""
        items: list[Item] = []
        while (position := positions.start + len(items)) < positions.stop:
            level = sum(end <= position for end in self._ends)
            stop = min([positions.stop, *self._ends[level : level + 1]])
            start, problems, order = self._levels[level]
            items += [problems[index] for index in order[position - start : stop - start]]
        return items


def problem_order(task: Task, split: str, seed: int) -> ProblemOrder[Problem]:
    """That of a split (`supervised`, `rl`) of a task and its curriculum."""
    levels = [(level.until, getattr(level, split)) for level in task.levels]
    return ProblemOrder(levels, getattr(task, split), seed)
