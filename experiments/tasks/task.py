"""What a task is: problems in four splits, and the reward of a completion.

A *source* makes problems and owns their *verifier*. A problem's *entry* is the source's own record of it, kept as JSON
text: a trial loads thousands of problems and its verifier asks for few of them, so each is parsed when it is asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from experiments.tasks.formats import ANSWER_FORMATS, AnswerFormat
from orchestrator.schema.training import TaskConfig


class TaskError(ValueError):
    """A task that cannot be built as configured. The message names the field, its value, and what would do."""


@dataclass(frozen=True, slots=True)
class Problem:
    """prompt: what the model reads. answer: the reference, in the format that is trained (`TaskConfig.answer_format`).

    entry: JSON text of the source's record; no part of a problem's identity.
    """

    prompt: str
    answer: str
    entry: str = field(default="{}", compare=False, repr=False)


Verifier = Callable[[str, Problem], float]
"""Scores an answer in the source's own (plain) format, 0 to 1. Every source guarantees that a problem's reference
answer scores at least 1."""


def answer_format(config: TaskConfig) -> AnswerFormat:
    """What `config.answer_format` names. Raises TaskError for a name that `ANSWER_FORMATS` lacks."""
    try:
        return ANSWER_FORMATS[config.answer_format]
    except KeyError:
        raise TaskError(
            f"task.answer_format={config.answer_format!r}: use one of {', '.join(ANSWER_FORMATS)}"
        ) from None


@dataclass(frozen=True, slots=True)
class Level:
    """A level of a curriculum: what is trained on in place of the task's own problems, for the first `until` of them
    that a stage takes. None is measured on."""

    until: int
    supervised: list[Problem]
    rl: list[Problem]


@dataclass(frozen=True)
class Task:
    """Problems by split. No problem is both trained on (`supervised`, `rl`) and measured on (`dev`, `test`).

    `supervised` problems are also in `rl` where `SplitConfig.rl_includes_supervised` says so. The order is part of the
    task: the same config gives the same lists, on any machine.
    """

    config: TaskConfig
    supervised: list[Problem]
    rl: list[Problem]
    dev: list[Problem]
    test: list[Problem]
    verifier: Verifier = field(repr=False)
    levels: tuple[Level, ...] = ()

    def accuracy(self, problem: Problem, completion: str) -> float:
        """1.0 if the verifier scores the answer in `completion` at least `reward_threshold`, else 0.0.

        `completion` is decoded text without EOS, in the trained format; the format is undone before the verifier sees
        it. A completion equal to the reference needs no verifier: its score is at least 1, which no threshold exceeds.
        """
        if completion == problem.answer:
            return 1.0
        plain = ANSWER_FORMATS[self.config.answer_format].read(completion)
        return 0.0 if plain is None else float(self.verifier(plain, problem) >= self.config.reward_threshold)

    def reward(self, problem: Problem, completion: str) -> float:
        """What a completion is trained on: its `accuracy`, and 1 or 0 for keeping to the format, each with its weight
        (arXiv:2501.12948, section 2.2.2)."""
        weights = self.config.reward
        reward = weights.accuracy * self.accuracy(problem, completion)
        if weights.format:
            reward += weights.format * ANSWER_FORMATS[self.config.answer_format].kept(completion)
        return reward
