"""Greedy evaluation of some members of a stack at once; the answers are those of each member alone."""

from collections.abc import Sequence

from experiments.batches import Prompts, encode_prompts
from experiments.evaluate import FOLDS, Evaluation, judged, of_counts
from experiments.fusion.decoder import StackedDecoder
from experiments.parts import timed_as
from experiments.rollout import generate
from experiments.tasks import Problem, Task, Tokenizer


@timed_as("evaluate")
def evaluate_members(
    stack: StackedDecoder,
    task: Task,
    problems: Sequence[Problem],
    tokenizer: Tokenizer,
    batch_size: int,
    members: Sequence[int] | None = None,
) -> list[Evaluation]:
    """Exact match of each of `members` (None: all) on `problems`, `batch_size` of them at a time for each member."""
    chosen = list(range(stack.members)) if members is None else list(members)
    model = stack if chosen == list(range(stack.members)) else stack.select(chosen)
    right, tokens = [[0.0] * FOLDS for _ in chosen], [0] * len(chosen)
    for start in range(0, len(problems), batch_size):
        batch = problems[start : start + batch_size]
        prompts = _repeated(encode_prompts([problem.prompt for problem in batch], tokenizer, stack.device), len(chosen))
        answers = generate(model, prompts, tokenizer, task.config.max_answer_tokens, members=len(chosen))
        generated = answers.mask.view(len(chosen), -1).sum(dim=1).tolist()
        rewards = judged(task, list(batch) * len(chosen), answers.tokens, tokenizer)
        for member in range(len(chosen)):
            for index, reward in enumerate(rewards[member * len(batch) : (member + 1) * len(batch)], start):
                right[member][index % FOLDS] += reward
            tokens[member] += generated[member]
    return [of_counts(folds, generated, len(problems)) for folds, generated in zip(right, tokens, strict=True)]


def _repeated(prompts: Prompts, members: int) -> Prompts:
    padding = None if prompts.padding is None else prompts.padding.repeat(members)
    return Prompts(prompts.tokens.repeat(members, 1), padding)
