"""Greedy decoding and exact match: accuracy with its interval, tokens per answer, seconds per answer."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from experiments.batches import encode_prompts
from experiments.gang import sum_over_processes
from experiments.models.decoder import Decoder
from experiments.parts import timed_as
from experiments.rollout import generate
from experiments.tasks import Problem, Task
from experiments.tasks.tokenizer import CharTokenizer

_Z_95 = 1.959963984540054  # the normal distribution's 97.5 % quantile


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Fraction right with its 95 % Wilson interval, and mean generated tokens per answer (EOS included)."""

    accuracy: float
    low: float
    high: float
    tokens_per_answer: float


def wilson_interval(successes: int, count: int, z: float = _Z_95) -> tuple[float, float]:
    """Score interval of a binomial proportion (E. B. Wilson, 1927): honest near 0 and 1, unlike the normal one."""
    rate = successes / count
    scale = 1.0 + z * z / count
    centre = (rate + z * z / (2 * count)) / scale
    half = z * math.sqrt(rate * (1.0 - rate) / count + z * z / (4 * count * count)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


@timed_as("verify")
def judged(task: Task, problems: Sequence[Problem], tokens: Tensor, tokenizer: CharTokenizer) -> list[float]:
    """Rewards of one answer to each of `problems`; tokens: (problems, T)."""
    answers = map(tokenizer.decode, tokens.tolist())
    return [task.reward(problem, text) for problem, text in zip(problems, answers, strict=True)]


@timed_as("evaluate")
def evaluate(
    model: Decoder, task: Task, problems: Sequence[Problem], tokenizer: CharTokenizer, batch_size: int
) -> Evaluation:
    """Greedy answers to `problems`, judged by the task's verifier. A gang shares the work and the result."""
    mine = problems[dist.get_rank() :: dist.get_world_size()]
    right, tokens = 0.0, 0
    for start in range(0, len(mine), batch_size):
        batch = mine[start : start + batch_size]
        prompts = encode_prompts([problem.prompt for problem in batch], tokenizer, model.device)
        answers = generate(model, prompts, tokenizer, task.config.max_answer_tokens)
        tokens += int(answers.mask.sum())
        right += sum(judged(task, batch, answers.tokens, tokenizer))
    totals = sum_over_processes(torch.tensor([right, float(tokens)], dtype=torch.float64, device=model.device)).tolist()
    successes, count = round(totals[0]), len(problems)
    return Evaluation(successes / count, *wilson_interval(successes, count), totals[1] / count)


@timed_as("evaluate")
def seconds_per_answer(
    model: Decoder, task: Task, problems: Sequence[Problem], tokenizer: CharTokenizer, count: int
) -> float:
    """Mean wall time of one greedy answer alone (batch of one, prompt to EOS) over `count` problems [s]."""
    timed = problems[:count]
    started = 0.0
    for index, problem in enumerate([timed[0], *timed]):
        if index == 1:  # the first one warms up
            started = time.perf_counter()
        prompts = encode_prompts([problem.prompt], tokenizer, model.device)
        generate(model, prompts, tokenizer, task.config.max_answer_tokens).tokens.cpu()
    return (time.perf_counter() - started) / len(timed)
