"""The losses of a stack: one number a member, of the pure functions that a solo stage uses.

Shapes as in `experiments.losses`; batches are flat, one member's sequences after the other's, so N = members x its own.
Members don't share a normaliser: the gradient of the sum over members is each member's own gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name the whole field uses
from torch import Tensor

from experiments.losses import (
    IGNORED,
    clipped_surrogate,
    clipped_tokens,
    group_advantages,
    k3_kl,
    token_log_probs,
)
from experiments.parts import timed_as
from orchestrator.schema.training import AdvantageScale, Aggregation, Baseline, GrpoConfig, ImportanceLevel


@timed_as("forward")
def sft_losses(logits: Tensor, targets: Tensor, mask: Tensor, token_counts: Tensor) -> Tensor:
    """`sft_loss` of each member, (M,), in nats per answer token.

    Args:
        logits: (N, T, V). targets, mask: (N, T).
        token_counts: (M,), answer tokens of each member's batch.
    """
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    answers = targets.masked_fill(~mask.bool(), IGNORED)
    per_token = F.cross_entropy(logits.flatten(0, 1), answers.flatten(), ignore_index=IGNORED, reduction="none")
    return per_token.unflatten(0, (len(token_counts), targets.numel() // len(token_counts))).sum(dim=1) / token_counts


def further_losses(logits: Sequence[Tensor], targets: Tensor, mask: Tensor, token_counts: Tensor) -> Tensor:
    """`further_loss` of each member, (M,); `logits` of module k = 1..D (N, T - k, V), the others as in `sft_losses`."""
    losses = [sft_losses(some, targets[:, k:], mask[:, k:], token_counts) for k, some in enumerate(logits, 1)]
    return torch.stack(losses).mean(dim=0)


@timed_as("forward")
def dpo_losses(
    log_probs: Tensor, reference_log_probs: Tensor, betas: Tensor, label_smoothing: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """`dpo_loss` of each member, (M,), and its statistics of each member, (M,) each.

    Args:
        log_probs, reference_log_probs: (N,), of sequences; a pair's better one stands before its worse one.
        betas, label_smoothing: (M,).
    """
    rewards = betas[:, None, None] * (log_probs - reference_log_probs).view(len(betas), -1, 2)
    chosen, rejected = rewards.unbind(dim=-1)
    margin = chosen - rejected
    wrong = label_smoothing[:, None]
    losses = -(1.0 - wrong) * F.logsigmoid(margin) - wrong * F.logsigmoid(-margin)
    stats = {
        "margin": margin.detach(),
        "preference_accuracy": (margin > 0).float(),
        "chosen_reward": chosen.detach(),
        "rejected_reward": rejected.detach(),
    }
    return losses.mean(dim=1), {name: values.mean(dim=1) for name, values in stats.items()}


@dataclass(frozen=True)
class GrpoKnobs:
    """What may differ between the members of a GRPO stack, as tensors over members, (M,) unless said otherwise.

    temperatures is None where all are 1. undivided: whose advantages are not divided by the group's deviation, None
    where everybody's are. leave_one_out: whose baseline is that, None where nobody's is. sequence_ratio: whose ratio is
    the sequence's, None where all have the token's.
    overlong_buffers [tokens] and length_penalties shape rewards, each None where all are 0. mask_truncated: whose
    truncated completions are no part of the loss, None where everybody's are.
    """

    temperatures: Tensor | None
    lowest: Tensor
    highest: Tensor
    kl_weights: Tensor
    by_sequence: Tensor
    by_token: Tensor
    undivided: Tensor | None
    leave_one_out: Tensor | None
    sequence_ratio: Tensor | None
    overlong_buffers: Tensor | None
    length_penalties: Tensor | None
    mask_truncated: Tensor | None

    @classmethod
    def of(cls, algorithms: Sequence[GrpoConfig], device: torch.device) -> "GrpoKnobs":
        """The knobs of members with these configs."""

        def over_members(values: Sequence[float | bool]) -> Tensor:
            return torch.tensor(values).to(device)

        def unless_none(values: Sequence[float | bool]) -> Tensor | None:
            return over_members(values) if any(values) else None

        hot = any(a.temperature != 1.0 for a in algorithms)
        return cls(
            temperatures=over_members([float(a.temperature) for a in algorithms]) if hot else None,
            lowest=over_members([1.0 - a.clip_low for a in algorithms]),
            highest=over_members([1.0 + a.clip_high for a in algorithms]),
            kl_weights=over_members([float(a.kl_weight) for a in algorithms]),
            by_sequence=over_members([a.aggregation is Aggregation.sequence for a in algorithms]),
            by_token=over_members([a.aggregation is Aggregation.token for a in algorithms]),
            undivided=unless_none([a.advantage_scale is AdvantageScale.none for a in algorithms]),
            leave_one_out=unless_none([a.baseline is Baseline.leave_one_out for a in algorithms]),
            sequence_ratio=unless_none([a.importance_level is ImportanceLevel.sequence for a in algorithms]),
            overlong_buffers=unless_none([float(a.overlong_buffer) for a in algorithms]),
            length_penalties=unless_none([float(a.length_penalty) for a in algorithms]),
            mask_truncated=unless_none([a.mask_truncated for a in algorithms]),
        )


def advantages_of_members(rewards: Tensor, knobs: GrpoKnobs) -> Tensor:
    """`group_advantages` of rewards (members x groups, G), each member's own scale and baseline; the same shape."""
    each, group = rewards.shape[0] // len(knobs.lowest), rewards.shape[1]

    def over_groups(whose: Tensor) -> Tensor:
        return whose.repeat_interleave(each)[:, None]

    advantages = group_advantages(rewards, AdvantageScale.std)
    if knobs.undivided is not None:
        advantages = torch.where(
            over_groups(knobs.undivided), group_advantages(rewards, AdvantageScale.none), advantages
        )
    if knobs.leave_one_out is not None:
        advantages = torch.where(over_groups(knobs.leave_one_out), advantages * (group / (group - 1)), advantages)
    return advantages


@timed_as("forward")
def tempered_log_probs(logits: Tensor, targets: Tensor, temperatures: Tensor | None) -> Tensor:
    """`token_log_probs` (N, T) at each member's temperature (M,); None is 1 for all."""
    if temperatures is not None:
        rows = temperatures.repeat_interleave(logits.shape[0] // len(temperatures))
        logits = logits.float() / rows[:, None, None]
    return token_log_probs(logits, targets)


@timed_as("forward")
def grpo_losses(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    knobs: GrpoKnobs,
    max_answer_tokens: int,
    reference_log_probs: Tensor | None = None,
    sequence_counts: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`grpo_loss` of each member, (M,), and its statistics of each member, (M,) each.

    A member is normalised by its own answer tokens and sequences; without any its loss is zero and has no gradient.

    Args:
        log_probs, old_log_probs, mask: (N, T). advantages: (N,). See `grpo_loss`.
        knobs: clip bounds, KL weights and aggregations.
        max_answer_tokens: the constant length of `Aggregation.constant`.
        reference_log_probs: (N, T); what stands at members without a KL weight reaches neither loss nor gradient.
        sequence_counts: (M,), each member's sequences; left out, those that are not masked out.
    """
    members = len(knobs.lowest)
    each = mask.shape[0] // members

    def over_rows(values: Tensor) -> Tensor:
        return values.repeat_interleave(each)[:, None]

    def by_member(values: Tensor) -> Tensor:
        return values.view(members, -1).sum(dim=1)

    padding = ~mask
    lowest, highest = over_rows(knobs.lowest), over_rows(knobs.highest)
    by_sequence = False if knobs.sequence_ratio is None else over_rows(knobs.sequence_ratio)
    per_token, ratio = clipped_surrogate(log_probs, old_log_probs, advantages, mask, lowest, highest, by_sequence)
    lengths = mask.sum(dim=1)
    tokens = by_member(lengths)
    sequences = by_member(lengths > 0) if sequence_counts is None else sequence_counts
    with torch.no_grad():
        below, above = clipped_tokens(ratio, advantages, mask, lowest, highest)
        stats = {"clip_fraction": by_member(below | above) / tokens.clamp(min=1)}
    if reference_log_probs is not None:
        weights = over_rows(knobs.kl_weights)
        without = padding | (weights == 0.0)
        kl = k3_kl(log_probs.masked_fill(without, 0.0), reference_log_probs.masked_fill(without, 0.0))
        stats["kl"] = by_member(kl.detach()) / tokens.clamp(min=1)
        per_token = per_token + weights * kl
    divisors = torch.where(over_rows(knobs.by_sequence)[:, 0], lengths.clamp(min=1), 1)
    rows = per_token.masked_fill(padding, 0.0).sum(dim=1) / divisors
    constant = torch.where(knobs.by_sequence, sequences, sequences * max_answer_tokens)
    normalisers = torch.where(knobs.by_token, tokens, constant)
    return by_member(rows) / normalisers.clamp(min=1), stats
