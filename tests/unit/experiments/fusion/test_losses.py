"""A stack's losses are the solo losses, member by member."""

import pytest
import torch

from experiments.fusion.losses import (
    GrpoKnobs,
    advantages_of_members,
    dpo_losses,
    further_losses,
    grpo_losses,
    sft_losses,
    tempered_log_probs,
)
from experiments.losses import dpo_loss, further_loss, group_advantages, grpo_loss, sft_loss, token_log_probs
from orchestrator.schema.training import AdvantageScale, Aggregation, Baseline, GrpoConfig, ImportanceLevel

CPU = torch.device("cpu")
EACH, LENGTH, VOCAB = 6, 4, 11
ALGORITHMS = [
    GrpoConfig(aggregation=Aggregation.sequence, kl_weight=0.3),
    GrpoConfig(
        aggregation=Aggregation.token,
        temperature=0.7,
        clip_low=0.05,
        clip_high=0.4,
        importance_level=ImportanceLevel.sequence,
    ),
    GrpoConfig(
        aggregation=Aggregation.constant,
        temperature=1.3,
        kl_weight=0.1,
        advantage_scale=AdvantageScale.none,
        baseline=Baseline.leave_one_out,
    ),
]
MEMBERS = len(ALGORITHMS)


def _draw(seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = MEMBERS * EACH
    logits = torch.randn(rows, LENGTH, VOCAB, generator=generator)
    targets = torch.randint(0, VOCAB, (rows, LENGTH), generator=generator)
    lengths = torch.randint(1, LENGTH + 1, (rows,), generator=generator)
    return logits, targets, torch.arange(LENGTH) < lengths[:, None], generator


def _rows(member):
    return slice(member * EACH, (member + 1) * EACH)


def test_supervised_losses_and_their_gradients_are_the_members_own():
    logits, targets, mask, _ = _draw()
    together, alone = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    counts = mask.view(MEMBERS, -1).sum(dim=1)
    losses = sft_losses(together, targets, mask, counts)
    expected = torch.stack([sft_loss(alone[_rows(m)], targets[_rows(m)], mask[_rows(m)]) for m in range(MEMBERS)])
    torch.testing.assert_close(losses, expected, atol=1e-6, rtol=1e-6)
    losses.sum().backward()
    expected.sum().backward()
    assert torch.equal(together.grad, alone.grad)


def test_losses_of_further_tokens_and_their_gradients_are_the_members_own():
    logits, targets, mask, generator = _draw()
    further = [torch.randn(len(logits), LENGTH - k, VOCAB, generator=generator) for k in range(1, LENGTH + 1)]
    together, alone = ([some.clone().requires_grad_() for some in further] for _ in range(2))
    losses = further_losses(together, targets, mask, mask.view(MEMBERS, -1).sum(dim=1))
    of_members = [
        further_loss([some[_rows(m)] for some in alone], targets[_rows(m)], mask[_rows(m)]) for m in range(MEMBERS)
    ]
    torch.testing.assert_close(losses, torch.stack(of_members), atol=1e-6, rtol=1e-6)
    losses.sum().backward()
    sum(of_members).backward()
    for some, other in zip(together, alone, strict=True):
        torch.testing.assert_close(some.grad, other.grad, atol=1e-7, rtol=1e-6)


def test_losses_of_preferences_and_their_gradients_and_statistics_are_the_members_own():
    betas, smoothing = (0.1, 0.5, 2.0), (0.0, 0.1, 0.4)
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.randn(2, MEMBERS * EACH, generator=generator)
    together, alone = policy.clone().requires_grad_(), policy.clone().requires_grad_()
    losses, stats = dpo_losses(together, reference, torch.tensor(betas), torch.tensor(smoothing))
    of_members = []
    for member in range(MEMBERS):
        ours, theirs = alone[_rows(member)], reference[_rows(member)]
        options = {"beta": betas[member], "label_smoothing": smoothing[member]}
        loss, expected = dpo_loss(ours[::2], ours[1::2], theirs[::2], theirs[1::2], **options)
        of_members.append(loss)
        assert stats.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(stats[name][member], value, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(losses, torch.stack(of_members), atol=1e-6, rtol=1e-6)
    losses.sum().backward()
    sum(of_members).backward()
    torch.testing.assert_close(together.grad, alone.grad, atol=1e-7, rtol=1e-6)


def _policy_losses(algorithms):
    """Fused and solo: losses, gradients, statistics."""
    logits, targets, mask, generator = _draw()
    noise = [torch.randn(logits.shape, generator=generator) * 0.3 for _ in range(2)]
    advantages = torch.randn(MEMBERS * EACH, generator=generator)
    knobs = GrpoKnobs.of(algorithms, CPU)
    old, reference = (tempered_log_probs(logits + n, targets, knobs.temperatures) for n in noise)
    together, alone = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    log_probs = tempered_log_probs(together, targets, knobs.temperatures)
    losses, stats = grpo_losses(log_probs, old, advantages, mask, knobs, LENGTH, reference)
    losses.sum().backward()
    expected = []
    for member, algorithm in enumerate(algorithms):
        rows = _rows(member)
        loss, solo = grpo_loss(
            token_log_probs(alone[rows], targets[rows], algorithm.temperature),
            old[rows],
            advantages[rows],
            mask[rows],
            clip_low=algorithm.clip_low,
            clip_high=algorithm.clip_high,
            aggregation=algorithm.aggregation,
            max_answer_tokens=LENGTH,
            reference_log_probs=reference[rows] if algorithm.kl_weight else None,
            kl_weight=algorithm.kl_weight,
            importance_level=algorithm.importance_level,
        )
        loss.backward()
        expected.append((float(loss.detach()), solo))
    return losses, stats, together.grad, expected, alone.grad


def test_policy_losses_are_the_members_own():
    losses, _, _, expected, _ = _policy_losses(ALGORITHMS)
    assert losses.tolist() == pytest.approx([loss for loss, _ in expected], rel=1e-5)


def test_policy_gradients_are_the_members_own():
    _, _, together, _, alone = _policy_losses(ALGORITHMS)
    torch.testing.assert_close(together, alone, atol=1e-8, rtol=1e-5)


def test_clip_fractions_and_kl_are_the_members_own():
    _, stats, _, expected, _ = _policy_losses(ALGORITHMS)
    assert stats["clip_fraction"].tolist() == pytest.approx([float(s["clip_fraction"]) for _, s in expected])
    assert 0.0 < float(stats["clip_fraction"].max()) < 1.0
    assert stats["kl"][[0, 2]].tolist() == pytest.approx([float(expected[m][1]["kl"]) for m in (0, 2)], rel=1e-5)


def test_a_member_without_groups_has_no_loss_and_no_gradient():
    logits, targets, mask, _ = _draw()
    mask[_rows(1)] = False
    logits.requires_grad_()
    log_probs = token_log_probs(logits, targets)
    knobs = GrpoKnobs.of(ALGORITHMS, CPU)
    losses, _ = grpo_losses(log_probs, log_probs.detach(), torch.ones(MEMBERS * EACH), mask, knobs, LENGTH)
    losses.sum().backward()
    assert losses[1] == 0.0
    assert (logits.grad[_rows(1)] == 0.0).all()
    assert (logits.grad[_rows(0)] != 0.0).any()


def test_what_stands_for_a_reference_of_a_member_without_a_kl_weight_reaches_nothing():
    logits, targets, mask, _ = _draw()
    knobs = GrpoKnobs.of(ALGORITHMS, CPU)
    advantages = torch.ones(MEMBERS * EACH)
    gradients = []
    for stand_in in (0.0, 1e30):
        mine = logits.clone().requires_grad_()
        log_probs = token_log_probs(mine, targets)
        reference = log_probs.detach().clone()
        reference[_rows(1)] = stand_in
        losses, _ = grpo_losses(log_probs, log_probs.detach(), advantages, mask, knobs, LENGTH, reference)
        losses.sum().backward()
        gradients.append(mine.grad)
    assert torch.equal(*gradients)
    assert gradients[0].isfinite().all()


def test_advantages_are_scaled_as_each_member_says():
    rewards = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    knobs = GrpoKnobs.of(ALGORITHMS, CPU)
    advantages = advantages_of_members(rewards, knobs)
    assert torch.equal(advantages[:2], group_advantages(rewards, AdvantageScale.std)[:2])
    expected = group_advantages(rewards, AdvantageScale.none, Baseline.leave_one_out)
    torch.testing.assert_close(advantages[2:], expected[2:])


def test_masked_out_sequences_count_where_they_are_given():
    logits, targets, mask, _ = _draw()
    mask[::EACH] = False
    log_probs = token_log_probs(logits, targets)
    counts = torch.full((MEMBERS,), EACH)
    knobs = GrpoKnobs.of([GrpoConfig()] * MEMBERS, CPU)
    advantages = torch.arange(MEMBERS * EACH).float()
    losses, _ = grpo_losses(log_probs, log_probs, advantages, mask, knobs, LENGTH, sequence_counts=counts)
    options = {"clip_low": 0.2, "clip_high": 0.2, "aggregation": Aggregation.sequence, "max_answer_tokens": LENGTH}
    expected = [
        float(grpo_loss(log_probs[rows], log_probs[rows], advantages[rows], mask[rows], **options)[0])
        for rows in map(_rows, range(MEMBERS))
    ]
    assert losses.tolist() == pytest.approx(expected)


def test_options_that_nobody_uses_are_not_even_computed():
    knobs = GrpoKnobs.of([GrpoConfig()] * 2, CPU)
    assert (knobs.sequence_ratio, knobs.overlong_buffers, knobs.length_penalties, knobs.mask_truncated) == (None,) * 4


def test_temperatures_of_one_are_not_even_divided_by():
    assert GrpoKnobs.of([GrpoConfig()] * 2, CPU).temperatures is None
    assert GrpoKnobs.of(ALGORITHMS, CPU).temperatures.tolist() == pytest.approx([1.0, 0.7, 1.3])
