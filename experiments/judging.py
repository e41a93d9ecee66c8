"""A task's verdicts on completions as tokens: each answer to a problem is read and judged once.

A policy gives the same answers again and again, and so do many that are trained together, at every step and evaluation.
"""

from array import array
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from experiments.parts import timed_as
from experiments.tasks import Problem, Task, Tokenizer

REMEMBERED_BYTES = 2**24
"""What verdicts may take before they are forgotten, tokens and an estimate of what is around them [bytes]."""
_ENTRY_BYTES = 128
_SMALL_VOCABULARY = 256

_Verdicts = dict[int, tuple[Problem, dict[bytes, float]]]
"""By the identity of the problem, which is kept: a hash of its text takes as long as looking up its group's answers."""


class Judge:
    """Of one task, whose completions are tokens of `tokenizer`. The verifier is asked for what was never seen."""

    def __init__(self, task: Task, tokenizer: Tokenizer) -> None:
        self.task, self.tokenizer = task, tokenizer
        self._small = tokenizer.vocab_size <= _SMALL_VOCABULARY
        self._rewards: _Verdicts = {}
        self._accuracies: _Verdicts = {}
        self._remembered_bytes = 0

    def rewards(self, problems: Sequence[Problem], tokens: Tensor) -> list[float]:
        """`Task.reward` of completions (problems x G, T), G of each problem one after the other."""
        return self._verdicts(self.task.reward, self._rewards, problems, tokens)

    def accuracies(self, problems: Sequence[Problem], tokens: Tensor) -> list[float]:
        """`Task.accuracy` of completions, laid out as in `rewards`."""
        return self._verdicts(self.task.accuracy, self._accuracies, problems, tokens)

    @timed_as("verify")
    def _verdicts(
        self, verdict: Callable[[Problem, str], float], known: _Verdicts, problems: Sequence[Problem], tokens: Tensor
    ) -> list[float]:
        rows, group = self._rows(tokens), len(tokens) // len(problems)
        verdicts: list[float] = []
        for place, problem in enumerate(problems):
            answers = rows[place * group : (place + 1) * group]
            _, of_problem = known.get(id(problem)) or known.setdefault(id(problem), (problem, {}))
            try:
                verdicts += [of_problem[row] for row in answers]
            except KeyError:
                for row in dict.fromkeys(answers):
                    if row not in of_problem:
                        of_problem[row] = verdict(problem, self.tokenizer.decode(self._ids(row)))
                        self._remembered_bytes += len(row) + _ENTRY_BYTES
                verdicts += [of_problem[row] for row in answers]
        if self._remembered_bytes > REMEMBERED_BYTES:
            self._rewards.clear()
            self._accuracies.clear()
            self._remembered_bytes = 0
        return verdicts

    def _rows(self, tokens: Tensor) -> list[bytes]:
        """Each completion as the bytes of its token ids, which can be looked up, and without a list of numbers."""
        packed = tokens.to("cpu", torch.uint8 if self._small else torch.int32).contiguous().numpy()
        rows: list[bytes] = packed.view(f"V{packed.itemsize * packed.shape[1]}").ravel().tolist()
        return rows

    def _ids(self, row: bytes) -> Sequence[int]:
        return row if self._small else array("i", row)
