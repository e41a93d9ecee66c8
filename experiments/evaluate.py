"""Greedy decoding and exact match: accuracy with its interval, and tokens per answer.

Problems are cut into folds by their place in the split: problem i is in fold i mod `FOLDS`. So folds are as large as
each other (to a problem), and hold the same problems for whoever is evaluated on the split.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from experiments.batches import encode_prompts
from experiments.gang import sum_over_processes
from experiments.judging import Judge
from experiments.parts import timed_as
from experiments.rollout import CachedModel, generate
from experiments.tasks import Problem

FOLDS = 16
"""Enough for a test of what two had right, fold by fold, to be sure of a single seed, and few enough to be told with
every evaluation. No option: what is paired by folds must be cut alike."""

_Z_95 = 1.959963984540054  # the normal distribution's 97.5 % quantile


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Fraction right with its 95 % Wilson interval, and mean generated tokens per answer (EOS included). folds: the
    fraction right of each fold; none where there are fewer problems than folds."""

    accuracy: float
    low: float
    high: float
    tokens_per_answer: float
    folds: tuple[float, ...] = ()


def wilson_interval(successes: int, count: int, z: float = _Z_95) -> tuple[float, float]:
    """Score interval of a binomial proportion (E. B. Wilson, 1927): honest near 0 and 1, unlike the normal one."""
    rate = successes / count
    scale = 1.0 + z * z / count
    centre = (rate + z * z / (2 * count)) / scale
    half = z * math.sqrt(rate * (1.0 - rate) / count + z * z / (4 * count * count)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


@timed_as("evaluate")
def evaluate(model: CachedModel, judge: Judge, problems: Sequence[Problem], batch_size: int) -> Evaluation:
    """Greedy answers to `problems`, judged by the task's verifier. A gang shares the work and the result."""
    rank, processes = dist.get_rank(), dist.get_world_size()
    mine, max_tokens = problems[rank::processes], judge.task.config.max_answer_tokens
    right, tokens = [0.0] * FOLDS, 0
    for start in range(0, len(mine), batch_size):
        batch = mine[start : start + batch_size]
        prompts = encode_prompts([problem.prompt for problem in batch], judge.tokenizer, model.device)
        answers = generate(model, prompts, judge.tokenizer, max_tokens)
        tokens += int(answers.mask.sum())
        for index, accuracy in enumerate(judge.accuracies(batch, answers.tokens), start):
            right[(rank + index * processes) % FOLDS] += accuracy
    counted = torch.tensor([*right, float(tokens)], dtype=torch.float64, device=model.device)
    *right, generated = sum_over_processes(counted).tolist()
    return of_counts(right, generated, len(problems))


def of_counts(right: Sequence[float], tokens: float, problems: int) -> Evaluation:
    """The evaluation on so many `problems`. right: how many were, by fold; tokens: generated for all of them."""
    successes = round(sum(right))
    sizes = [len(range(fold, problems, FOLDS)) for fold in range(FOLDS)]
    folds = tuple(part / size for part, size in zip(right, sizes, strict=True)) if all(sizes) else ()
    return Evaluation(successes / problems, *wilson_interval(successes, problems), tokens / problems, folds)
