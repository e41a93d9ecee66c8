"""Greedy evaluation of some members of a stack at once; the answers are those of each member alone."""

from collections.abc import Sequence

from experiments.batches import Prompts, encode_prompts
from experiments.evaluate import FOLDS, Evaluation, of_counts
from experiments.fusion.decoder import StackedDecoder
from experiments.judging import Judge
from experiments.parts import timed_as
from experiments.rollout import generate
from experiments.tasks import Problem


@timed_as("evaluate")
def evaluate_members(
    stack: StackedDecoder,
    judge: Judge,
    problems: Sequence[Problem],
    batch_size: int,
    members: Sequence[int] | None = None,
) -> list[Evaluation]:
    """Exact match of each of `members` (None: all) on `problems`, `batch_size` of them at a time for each member."""
    chosen = list(range(stack.members)) if members is None else list(members)
    model = stack if chosen == list(range(stack.members)) else stack.select(chosen)
    right, tokens = [[0.0] * FOLDS for _ in chosen], [0] * len(chosen)
    for start in range(0, len(problems), batch_size):
        batch = problems[start : start + batch_size]
        once = encode_prompts([problem.prompt for problem in batch], judge.tokenizer, stack.device)
        prompts, max_tokens = _repeated(once, len(chosen)), judge.task.config.max_answer_tokens
        answers = generate(model, prompts, judge.tokenizer, max_tokens, members=len(chosen))
        generated = answers.mask.view(len(chosen), -1).sum(dim=1).tolist()
        accuracies = judge.accuracies(list(batch) * len(chosen), answers.tokens)
        for member in range(len(chosen)):
            for index, accuracy in enumerate(accuracies[member * len(batch) : (member + 1) * len(batch)], start):
                right[member][index % FOLDS] += accuracy
            tokens[member] += generated[member]
    return [of_counts(folds, generated, len(problems)) for folds, generated in zip(right, tokens, strict=True)]


def _repeated(prompts: Prompts, members: int) -> Prompts:
    padding = None if prompts.padding is None else prompts.padding.repeat(members)
    return Prompts(prompts.tokens.repeat(members, 1), padding)
