"""What a task is: problems in four splits, and the reward of a completion.

A *source* makes problems and owns their *verifier*. A problem's *entry* is the source's own record of it, kept as JSON
text: a trial loads thousands of problems and its verifier asks for few of them, so each is parsed when it is asked for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

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


def _same(text: str) -> str:
    return text


def _reversed(text: str) -> str:
    return text[::-1]


ANSWER_FORMATS: Mapping[str, Callable[[str], str]] = {"plain": _same, "reversed": _reversed}
"""Plain answer -> trained answer. Each is its own inverse."""


def answer_format(config: TaskConfig) -> Callable[[str], str]:
    """The function behind `config.answer_format`. Raises TaskError for a name that `ANSWER_FORMATS` lacks."""
    try:
        return ANSWER_FORMATS[config.answer_format]
    except KeyError:
        raise TaskError(
            f"task.answer_format={config.answer_format!r}: use one of {', '.join(ANSWER_FORMATS)}"
        ) from None


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

    def reward(self, problem: Problem, completion: str) -> float:
        """1.0 if the verifier scores `completion` at least `reward_threshold`, else 0.0.

        `completion` is decoded text without EOS, in the trained format; the format is undone before the verifier sees
        it. A completion equal to the reference needs no verifier: its score is at least 1, which no threshold exceeds.
        """
        if completion == problem.answer:
            return 1.0
        plain = ANSWER_FORMATS[self.config.answer_format](completion)
        return float(self.verifier(plain, problem) >= self.config.reward_threshold)
