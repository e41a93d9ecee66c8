"""From completions to rewards."""

from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.parts import timed_as
from experiments.rollout import Rollout
from experiments.tasks import CharTokenizer, Problem, Task


@timed_as("verify")
def completion_rewards(task: Task, problems: Sequence[Problem], rollout: Rollout, tokenizer: CharTokenizer) -> Tensor:
    """Rewards (P, G) of a rollout's completions; the same answer to the same prompt is judged once."""
    completions = [tokenizer.decode(ids) for ids in rollout.tokens.tolist()]
    group = len(completions) // len(problems)
    rewards = []
    for index, problem in enumerate(problems):
        texts = completions[index * group : (index + 1) * group]
        judged = {text: task.reward(problem, text) for text in set(texts)}
        rewards.append([judged[text] for text in texts])
    return torch.tensor(rewards)
