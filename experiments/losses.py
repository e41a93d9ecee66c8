"""Losses of supervised fine-tuning, group-relative and direct preference optimization, as pure functions of tensors.

Shapes use P prompts, G completions per prompt (a group), N sequences, T token positions, V tokens in the vocabulary.
Log-probabilities are in nats. A `mask` (N, T) is 1 (or True) at the answer's tokens, its EOS included, and 0 at prompt
and padding; what stands at a masked position reaches neither loss nor gradient.

`token_count` and `sequence_count` normalise by the *global* batch: the answer tokens and the sequences of all
micro-batches of all processes that make one optimizer step. With them the losses of the parts add up to the loss of
the whole, so that neither gradient accumulation nor a gang of processes changes the update. An engine that averages
over parts instead of adding has to multiply by their number. Left out, the batch at hand is the whole.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the name the whole field uses
from torch import Tensor

from experiments.parts import timed_as
from orchestrator.schema.training import AdvantageScale, Aggregation, Baseline, ImportanceLevel

IGNORED = -100
"""The target that `cross_entropy` skips."""


def group_advantages(
    rewards: Tensor, scale: AdvantageScale, baseline: Baseline = Baseline.group, eps: float = 1e-4
) -> Tensor:
    """Advantage of each completion over the others of its group.

    `std`: A_ij = (r_ij - mean_j r_ij) / (std_j r_ij + eps), GRPO (arXiv:2402.03300, section 4.1.2). The standard
    deviation is the unbiased one (G - 1), as in TRL and verl; `eps` has the unit of the rewards.
    `none`: A_ij = r_ij - mean_j r_ij, Dr. GRPO (arXiv:2503.20783, section 3.1): dividing by the deviation would
    give more weight to prompts that are almost always, or almost never, solved.
    Those are with the baseline `group`. `leave_one_out` takes the mean over the others of the group,
    r_ij - 1/(G-1) sum_{k != j} r_ik: RLOO (arXiv:2402.14740, section 2), which is G / (G - 1) times as much.

    Args:
        rewards: (P, G).
        scale: what the centred rewards are divided by.
        baseline: what they are compared with.
        eps: added to the standard deviation.

    Returns:
        (P, G); each row sums to zero. Rows without spread are zero and teach nothing.

    Raises:
        ValueError: if `rewards` is not (P, G) with G >= 2.
    """
    if rewards.dim() != 2 or rewards.size(1) < 2:
        raise ValueError(f"rewards must be (prompts, group size >= 2), got {tuple(rewards.shape)}")
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if baseline is Baseline.leave_one_out:
        group = rewards.size(1)
        centred = centred * (group / (group - 1))
    if scale is AdvantageScale.none:
        return centred
    return centred / (rewards.std(dim=1, keepdim=True) + eps)


@timed_as("forward")
def token_log_probs(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature)[targets].

    Logits of less than 32 bits are widened first: a log-softmax in bfloat16 is off by more than a step's change.

    Args:
        logits: (N, T, V), already aligned: position t scores `targets[:, t]`.
        targets: (N, T), int64.
        temperature: of the distribution that the completions were sampled from, > 0.

    Returns:
        (N, T).
    """
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    if temperature != 1.0:
        logits = logits / temperature
    # Forward and backward take a third less time than with gather(logits) - logsumexp(logits), for the same memory.
    return logits.log_softmax(dim=-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def k3_kl(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """Per-token estimate of KL(policy || reference) from tokens that the policy sampled, in nats.

    r - log r - 1 with r = reference / policy: the estimator k3 of J. Schulman, "Approximating KL Divergence" (2020),
    and eq. 4 of GRPO (arXiv:2402.03300). Unbiased, never negative, low variance.

    Args:
        log_probs: any shape, of the sampled tokens under the policy.
        reference_log_probs: the same shape, under the reference.
    """
    log_ratio = reference_log_probs - log_probs
    return log_ratio.exp() - log_ratio - 1


def clipped_surrogate(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    lowest: Tensor | float,
    highest: Tensor | float,
    by_sequence: Tensor | bool = False,
) -> tuple[Tensor, Tensor]:
    """-min(w A, clip(w, lowest, highest) A) per token, and w = policy / old policy; both (N, T), w is 1 at padding.

    Args:
        log_probs, old_log_probs, mask: (N, T). advantages: (N,).
        lowest, highest: bounds of the ratio: both numbers, or both (N, 1).
        by_sequence: whether w is that of the sequence, see `sequence_log_ratio`; a bool, or (N, 1) of them.
    """
    # Filled before the exponential: infinity at a padded position would turn into NaN once multiplied by zero.
    log_ratio = (log_probs - old_log_probs).masked_fill(~mask.bool(), 0.0)
    if by_sequence is not False:
        of_sequence = sequence_log_ratio(log_ratio, mask)
        log_ratio = of_sequence if by_sequence is True else torch.where(by_sequence, of_sequence, log_ratio)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(lowest, highest)  # type: ignore[arg-type]
    advantages = advantages.unsqueeze(1)
    return -torch.minimum(ratio * advantages, clipped * advantages), ratio


def sequence_log_ratio(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """log s = 1/|y| sum_t log(policy / old policy), at each token of its sequence, 0 at padding; (N, T).

    The sequence-level importance ratio of GSPO (arXiv:2507.18071, eq. 7): a likelihood ratio of the whole completion,
    its |y|-th root taken so that ratios of any length fall into one range.

    Args:
        log_ratio: (N, T), 0 at padding. mask: (N, T).
    """
    mean = log_ratio.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return mean.expand_as(log_ratio).masked_fill(~mask.bool(), 0.0)


def clipped_tokens(
    ratio: Tensor, advantages: Tensor, mask: Tensor, lowest: Tensor | float, highest: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Which answer tokens the clip leaves without gradient, (N, T): below the lowest ratio, above the highest."""
    advantages, mask = advantages.unsqueeze(1), mask.bool()
    return (ratio < lowest) & (advantages < 0) & mask, (ratio > highest) & (advantages > 0) & mask


@timed_as("forward")
def grpo_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    aggregation: Aggregation,
    max_answer_tokens: int,
    token_count: Tensor | float | None = None,
    sequence_count: Tensor | float | None = None,
    reference_log_probs: Tensor | None = None,
    kl_weight: float = 0.0,
    importance_level: ImportanceLevel = ImportanceLevel.token,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped surrogate of GRPO with asymmetric clip and an optional penalty on the KL to a reference.

    Per token: -min(w A, clip(w, 1 - clip_low, 1 + clip_high) A) + kl_weight * k3, with w = policy / old policy: GRPO
    (arXiv:2402.03300, eq. 3); two clip bounds ("clip-higher") are DAPO's (arXiv:2503.14476, eq. 10). `Aggregation`
    says how tokens become one number, and whose equation each way is.

    Args:
        log_probs: (N, T), of the completions' tokens under the policy; carries the gradient.
        old_log_probs: (N, T), under the policy that sampled them. Pass `log_probs.detach()` for the first update.
        advantages: (N,).
        mask: (N, T).
        clip_low: the ratio's lower bound is 1 - clip_low.
        clip_high: its upper bound is 1 + clip_high.
        aggregation: how per-token losses are averaged.
        max_answer_tokens: the constant length of `Aggregation.constant`, in tokens.
        token_count: answer tokens in the global batch.
        sequence_count: sequences in the global batch.
        reference_log_probs: (N, T), under the reference policy.
        kl_weight: weight of the KL penalty (beta in the paper), in loss per nat.
        importance_level: what w is of. `sequence` with `Aggregation.sequence` is GSPO's objective (arXiv:2507.18071,
            eq. 5): a sequence's tokens have one w, and their mean is that sequence's term.

    Returns:
        The loss (scalar), and detached means over this batch's answer tokens: `ratio` (w), `clip_fraction` (share of
        tokens that the clip leaves without gradient), `clip_low_fraction` and `clip_high_fraction` (its two parts),
        and, where a reference is given, `kl` (nats).

    Raises:
        ValueError: if `kl_weight` is not 0 and there is no reference.
    """
    if kl_weight != 0.0 and reference_log_probs is None:
        raise ValueError(f"kl_weight={kl_weight} needs reference_log_probs")
    padding = ~mask.bool()
    lowest, highest = 1.0 - clip_low, 1.0 + clip_high
    by_sequence = importance_level is ImportanceLevel.sequence
    per_token, ratio = clipped_surrogate(log_probs, old_log_probs, advantages, mask, lowest, highest, by_sequence)
    stats = _ratio_means(ratio, advantages, mask, lowest, highest)
    if reference_log_probs is not None:
        kl = k3_kl(log_probs.masked_fill(padding, 0.0), reference_log_probs.masked_fill(padding, 0.0))
        stats["kl"] = kl.detach().sum() / mask.sum().clamp(min=1)
        if kl_weight != 0.0:
            per_token = per_token + kl_weight * kl
    loss = _aggregate(per_token, mask, aggregation, max_answer_tokens, token_count, sequence_count)
    return loss, stats


@torch.no_grad()
def _ratio_means(ratio: Tensor, advantages: Tensor, mask: Tensor, lowest: float, highest: float) -> dict[str, Tensor]:
    """The ratio, and what the clip leaves without gradient, as means over the answer tokens; see `grpo_loss`."""
    tokens = mask.sum().clamp(min=1)
    below, above = clipped_tokens(ratio, advantages, mask, lowest, highest)
    low, high = below.sum() / tokens, above.sum() / tokens
    return {
        "ratio": ratio.masked_fill(~mask.bool(), 0.0).sum() / tokens,
        "clip_fraction": low + high,
        "clip_low_fraction": low,
        "clip_high_fraction": high,
    }


def _aggregate(
    per_token: Tensor,
    mask: Tensor,
    aggregation: Aggregation,
    max_answer_tokens: int,
    token_count: Tensor | float | None,
    sequence_count: Tensor | float | None,
) -> Tensor:
    per_token = per_token.masked_fill(~mask.bool(), 0.0)
    sequences = per_token.size(0) if sequence_count is None else sequence_count
    if aggregation is Aggregation.sequence:
        return (per_token.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).sum() / sequences
    if aggregation is Aggregation.token:
        return per_token.sum() / (mask.sum().clamp(min=1) if token_count is None else token_count)
    return per_token.sum() / (sequences * max_answer_tokens)


@timed_as("forward")
def sft_loss(logits: Tensor, targets: Tensor, mask: Tensor, token_count: Tensor | float | None = None) -> Tensor:
    """Mean negative log-likelihood of the answers' tokens, in nats per token; prompts are masked.

    -sum_t m_t log p(y_t | x, y_<t) / sum_t m_t: supervised fine-tuning as in InstructGPT (arXiv:2203.02155, section
    3.5), over completions only.

    Args:
        logits: (N, T, V), already aligned: position t scores `targets[:, t]`.
        targets: (N, T), int64; any token id at masked positions.
        mask: (N, T).
        token_count: answer tokens in the global batch.

    Returns:
        Scalar; zero, with zero gradients, where the mask is empty.
    """
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    answers = targets.masked_fill(~mask.bool(), IGNORED)
    total = F.cross_entropy(logits.flatten(0, 1), answers.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (mask.sum().clamp(min=1) if token_count is None else token_count)


def further_loss(
    logits: Sequence[Tensor], targets: Tensor, mask: Tensor, token_count: Tensor | float | None = None
) -> Tensor:
    """Mean over modules of multi-token prediction of their negative log-likelihoods, in nats per token.

    1/D sum_k -1/n sum_t m_t log p_k(y_t | x, y_<(t-k)): DeepSeek-V3 (arXiv:2412.19437, eq. 24, and 25 without its
    weight), n being the answer tokens, of which module k predicts all but the first k.

    Args:
        logits: of module k = 1..D (N, T - k, V): position t scores `targets[:, t + k]`.
        targets, mask: (N, T). token_count: answer tokens in the global batch.
    """
    count = mask.sum().clamp(min=1) if token_count is None else token_count
    losses = [sft_loss(some, targets[:, k:], mask[:, k:], count) for k, some in enumerate(logits, 1)]
    return torch.stack(losses).mean()


def sequence_log_probs(log_probs: Tensor, mask: Tensor) -> Tensor:
    """log p(y | x) = sum_t m_t log p(y_t | x, y_<t) of each sequence, (N,), in nats; both arguments (N, T)."""
    return log_probs.masked_fill(~mask.bool(), 0.0).sum(dim=1)


@timed_as("forward")
def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    pair_count: Tensor | float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Direct preference optimization: mean over pairs of -log sigmoid(beta d), where

    d = [log pi(y_w|x) - log ref(y_w|x)] - [log pi(y_l|x) - log ref(y_l|x)]: DPO (arXiv:2305.18290, eq. 7). With a
    `label_smoothing` e, -(1 - e) log sigmoid(beta d) - e log sigmoid(-beta d): labels are wrong with probability e
    (conservative DPO, eq. 5 of https://ericmitchell.ai/cdpo.pdf).

    Args:
        chosen, rejected: (N,), log-probabilities of the better and the worse completion of each pair under the policy,
            see `sequence_log_probs`; they carry the gradient.
        reference_chosen, reference_rejected: (N,), under the reference.
        beta: strength of the tie to the reference, per nat.
        label_smoothing: e, from 0 up to, not including, 0.5.
        pair_count: pairs in the global batch.

    Returns:
        The loss (scalar), and detached means over this batch's pairs: `margin` (beta d), `preference_accuracy` (share
        of pairs with d > 0), `chosen_reward` and `rejected_reward` (beta times log-ratio to the reference).
    """
    chosen_reward, rejected_reward = beta * (chosen - reference_chosen), beta * (rejected - reference_rejected)
    margin = chosen_reward - rejected_reward
    losses = -(1.0 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)
    stats = {
        "margin": margin.detach().mean(),
        "preference_accuracy": (margin > 0).float().mean(),
        "chosen_reward": chosen_reward.detach().mean(),
        "rejected_reward": rejected_reward.detach().mean(),
    }
    return losses.sum() / (len(losses) if pair_count is None else pair_count), stats
