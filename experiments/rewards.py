"""From completions to rewards: the verifier's judgement, and what a completion's length adds to it."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from experiments.judging import Judge
from experiments.parts import timed_as
from experiments.rollout import Rollout
from experiments.tasks import Problem, Tokenizer


@timed_as("verify")
def completion_rewards(
    judge: Judge,
    problems: Sequence[Problem],
    rollout: Rollout,
    overlong_buffer: Tensor | float | None = None,
    length_penalty: Tensor | float | None = None,
) -> Tensor:
    """What completions are trained on, (P, G): the task's rewards, less what they lose by their length.

    overlong_buffer: see `overlong_punishment`. length_penalty: weight of `length_rewards`. Numbers, or (P, 1), of which
    0 adds nothing; None where that is so for all.
    """
    rewards = torch.tensor(judge.rewards(problems, rollout.tokens)).view(len(problems), -1)
    if overlong_buffer is None and length_penalty is None:
        return rewards
    lengths = rollout.mask.sum(dim=1).view(rewards.shape).to(rewards.device)
    if overlong_buffer is not None:
        rewards = rewards + overlong_punishment(lengths, judge.task.config.max_answer_tokens, overlong_buffer)
    if length_penalty is not None:
        right = torch.tensor(judge.accuracies(problems, rollout.tokens)).view(rewards.shape)
        rewards = rewards + length_penalty * length_rewards(lengths, right)
    return rewards


def overlong_punishment(lengths: Tensor, max_tokens: int, buffer: Tensor | float) -> Tensor:
    """DAPO's soft overlong punishment (arXiv:2503.14476, eq. 13), from 0 down to -1: none up to `max_tokens` - `buffer`
    tokens, then linear, ((max_tokens - buffer) - |y|) / buffer.

    Args:
        lengths: |y| of any shape, in tokens, EOS included; at most `max_tokens` [tokens].
        buffer: a number, or one for each of the lengths (broadcast); 0 punishes nobody [tokens].
    """
    buffer = torch.as_tensor(buffer, dtype=torch.float32)
    beyond = lengths - (max_tokens - buffer)
    return -(beyond / buffer.clamp(min=1)).clamp(min=0.0, max=1.0).masked_fill(buffer == 0, 0.0)


def length_rewards(lengths: Tensor, right: Tensor) -> Tensor:
    """Length reward of Kimi k1.5 (arXiv:2501.12599, section 2.3.3), (P, G), from 0.5 for a group's shortest completion
    to -0.5 for its longest: l = 0.5 - (|y| - min) / (max - min) for right ones, min(0, l) for wrong ones, and 0 where
    all are of one length.

    Args:
        lengths: (P, G), in tokens. right: (P, G), 1 or 0.
    """
    shortest, longest = lengths.amin(dim=1, keepdim=True), lengths.amax(dim=1, keepdim=True)
    reward = 0.5 - (lengths - shortest) / (longest - shortest).clamp(min=1)
    reward = torch.where(right > 0, reward, reward.clamp(max=0.0))
    return reward.masked_fill(shortest == longest, 0.0)


def without_truncated(rollout: Rollout, tokenizer: Tokenizer, whose: Tensor | None = None) -> Rollout:
    """The rollout with completions masked out that took all the tokens there were and did not end: DAPO's overlong
    filtering (arXiv:2503.14476, section 3.4). whose: (N,), which completions that goes for; all without it."""
    truncated = rollout.mask[:, -1] & (rollout.tokens[:, -1] != tokenizer.eos_id)
    if whose is not None:
        truncated = truncated & whose
    return replace(rollout, mask=rollout.mask & ~truncated[:, None])
