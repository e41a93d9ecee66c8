"""Which problems a step trains on: an endless order, level after level where a task has a curriculum."""

from collections.abc import Sequence

from experiments.batches import DataOrder
from experiments.tasks import Problem, Task


class ProblemOrder:
    """An endless sequence of problems: those of each level up to its end, of the last one for ever.

    A pure function of seed and position, so a resumed stage needs its position only, and stages of different lengths
    share what they have in common.
    """

    def __init__(self, levels: Sequence[tuple[int, Sequence[Problem]]], last: Sequence[Problem], seed: int) -> None:
        """levels: (position at which it ends, its problems), in order; each begins where the one before ends."""
        starts = [0, *(end for end, _ in levels)]
        self._ends = starts[1:]
        problems = [*(level for _, level in levels), last]
        self._levels = [(start, some, DataOrder(len(some), seed)) for start, some in zip(starts, problems, strict=True)]

    def __getitem__(self, positions: slice) -> list[Problem]:
        """The problems at positions [start, stop); a step of other than 1 is not supported."""
        return [self._problem(position) for position in range(positions.start, positions.stop)]

    def _problem(self, position: int) -> Problem:
        start, problems, order = self._levels[sum(end <= position for end in self._ends)]
        (index,) = order[slice(position - start, position - start + 1)]
        return problems[index]


def problem_order(task: Task, split: str, seed: int) -> ProblemOrder:
    """That of a split (`supervised`, `rl`) of a task and its curriculum."""
    levels = [(level.until, getattr(level, split)) for level in task.levels]
    return ProblemOrder(levels, getattr(task, split), seed)
