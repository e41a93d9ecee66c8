"""Samples of a policy, judged: what rejection sampling, distillation and preference pairs are made of.

On disk they are JSON lines, one sample each, `{"prompt", "completion", "reward", "accuracy"}`, in the order of the
prompts and of the draws. Completions are text in the trained format, without EOS.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch

from experiments.batches import encode_prompts, seeded_generator
from experiments.rollout import CachedModel, sampling_noise
from experiments.rollout.engine import RolloutEngine
from experiments.tasks import Problem, Task, Tokenizer
from orchestrator.schema.training import SamplingConfig

FILE = "samples.jsonl"


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion. reward: what training by reinforcement gives for it. accuracy: 1.0 if right, else 0.0."""

    prompt: str
    completion: str
    reward: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Pair:
    """A right and a wrong completion of one prompt."""

    prompt: str
    chosen: str
    rejected: str


def draw_samples(
    rollouts: RolloutEngine,
    model: CachedModel,
    task: Task,
    problems: Mapping[int, Problem],
    tokenizer: Tokenizer,
    device: torch.device,
    sampling: SamplingConfig,
    seed: int,
) -> list[Sample]:
    """The different completions among `sampling.per_prompt` of each problem, those that ended, in the order drawn.

    The noise of a problem is a function of the seed and of its number, its key in `problems`: samples depend neither on
    the batch size nor on who else draws.
    """
    samples: list[Sample] = []
    numbers, count = list(problems), sampling.per_prompt
    steps = task.config.max_answer_tokens
    for start in range(0, len(numbers), sampling.batch_size):
        batch = numbers[start : start + sampling.batch_size]
        rollout = rollouts.sample(
            model,
            encode_prompts([problems[number].prompt for number in batch], tokenizer, device),
            tokenizer,
            steps,
            group_size=count,
            temperature=sampling.temperature,
            noise=torch.cat([_noise(count, steps, seed, number) for number in batch]).to(device),
        )
        ended = (rollout.tokens == tokenizer.eos_id).any(dim=1).tolist()
        texts = [tokenizer.decode(ids) for ids in rollout.tokens.tolist()]
        for place, number in enumerate(batch):
            rows = range(place * count, (place + 1) * count)
            different = dict.fromkeys(texts[row] for row in rows if ended[row])
            samples += (judged(task, problems[number], text) for text in different)
    return samples


def _noise(count: int, steps: int, seed: int, number: int) -> torch.Tensor:
    return sampling_noise(count, steps, seeded_generator(seed, f"samples of prompt {number}"))


def judged(task: Task, problem: Problem, completion: str) -> Sample:
    """A completion with what the task says of it."""
    return Sample(problem.prompt, completion, task.reward(problem, completion), task.accuracy(problem, completion))


def verified(samples: Iterable[Sample], keep: int) -> list[Problem]:
    """The first `keep` right completions of each prompt, as examples to learn from."""
    return [
        Problem(sample.prompt, sample.completion)
        for right, _ in _by_prompt(samples).values()
        for sample in islice(right, keep)
    ]


def preference_pairs(samples: Iterable[Sample], keep: int) -> list[Pair]:
    """Of each prompt with both, up to `keep` pairs of its n-th right and its n-th wrong completion."""
    return [
        Pair(better.prompt, better.completion, worse.completion)
        for right, wrong in _by_prompt(samples).values()
        for better, worse in islice(zip(right, wrong, strict=False), keep)
    ]


def _by_prompt(samples: Iterable[Sample]) -> dict[str, tuple[list[Sample], list[Sample]]]:
    """The right and the wrong ones of each prompt."""
    out: dict[str, tuple[list[Sample], list[Sample]]] = {}
    for sample in samples:
        out.setdefault(sample.prompt, ([], []))[0 if sample.accuracy == 1.0 else 1].append(sample)
    return out


def write_samples(samples: Sequence[Sample], folder: Path) -> None:
    """Writes `samples.jsonl` into a folder, which is made; the file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{FILE}.unfinished"
    unfinished.write_text("".join(json.dumps(asdict(sample)) + "\n" for sample in samples), encoding="utf-8")
    os.replace(unfinished, folder / FILE)


def read_samples(folder: Path) -> list[Sample]:
    """What `write_samples` wrote. Raises FileNotFoundError where it did not."""
    with (folder / FILE).open(encoding="utf-8") as lines:
        return [Sample(**json.loads(line)) for line in lines]
