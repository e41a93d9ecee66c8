import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.losses import (
    dpo_loss,
    group_advantages,
    grpo_loss,
    k3_kl,
    sequence_log_probs,
    sft_loss,
    token_log_probs,
)
from orchestrator.schema.training import AdvantageScale, Aggregation, Baseline, ImportanceLevel

seeds = st.integers(0, 2**31 - 1)
aggregations = st.sampled_from(list(Aggregation))
MAX_ANSWER_TOKENS = 7


def batch(seed, sequences=6, tokens=5):
    """Log-probabilities under three policies, advantages, and a mask with at least one answer token per sequence."""
    generator = torch.Generator().manual_seed(seed)

    def log_probs():
        return -torch.rand(sequences, tokens, generator=generator, dtype=torch.float64) * 3

    lengths = torch.randint(1, tokens + 1, (sequences, 1), generator=generator)
    return {
        "log_probs": log_probs().requires_grad_(),
        "old_log_probs": log_probs(),
        "advantages": torch.randn(sequences, generator=generator, dtype=torch.float64),
        "mask": (torch.arange(tokens) < lengths).double(),
        "reference_log_probs": log_probs(),
    }


def loss_of(data, **overrides):
    options = {
        "clip_low": 0.2,
        "clip_high": 0.2,
        "aggregation": Aggregation.sequence,
        "max_answer_tokens": MAX_ANSWER_TOKENS,
    }
    return grpo_loss(**(data | options | overrides))


def gradient(loss, data):
    return torch.autograd.grad(loss, data["log_probs"])[0]


@pytest.mark.parametrize("scale", AdvantageScale)
@given(
    rewards=st.integers(2, 9).flatmap(
        lambda size: st.lists(st.lists(st.floats(-10, 10), min_size=size, max_size=size), min_size=1, max_size=5)
    )
)
def test_advantages_of_a_group_sum_to_zero(scale, rewards):
    advantages = group_advantages(torch.tensor(rewards, dtype=torch.float64), scale)
    assert advantages.shape == (len(rewards), len(rewards[0]))
    torch.testing.assert_close(advantages.sum(1), torch.zeros(len(rewards), dtype=torch.float64), rtol=0, atol=1e-9)


def test_scaled_advantages_have_unit_deviation_and_unscaled_keep_the_unit_of_rewards():
    rewards = torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    assert group_advantages(rewards, AdvantageScale.std, eps=0.0).std(dim=1) == pytest.approx([1.0, 1.0])
    assert group_advantages(rewards, AdvantageScale.none).tolist() == [
        [-0.25, -0.25, -0.25, 0.75],
        [-0.5, 0.5, 0.5, -0.5],
    ]


@pytest.mark.parametrize("scale", AdvantageScale)
@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_a_group_without_spread_has_no_advantage(scale, reward):
    assert group_advantages(torch.full((1, 8), reward), scale).abs().max() == 0


@given(seed=seeds)
def test_leaving_one_out_compares_a_reward_with_the_mean_of_the_others(seed):
    rewards = torch.rand(3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = [
        [reward - (sum(row) - reward) / 4 for reward in row] for row in rewards.tolist()
    ]  # RLOO, arXiv:2402.14740, section 2, as it stands there
    advantages = group_advantages(rewards, AdvantageScale.none, Baseline.leave_one_out)
    torch.testing.assert_close(advantages, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(3, 1), (6,), (2, 3, 4)])
def test_advantages_need_groups(shape):
    with pytest.raises(ValueError, match="group size >= 2"):
        group_advantages(torch.zeros(shape), AdvantageScale.std)


@given(seed=seeds, temperature=st.floats(0.1, 5.0))
def test_token_log_probs_are_those_of_log_softmax(seed, temperature):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 4, 11, generator=generator, dtype=torch.float64) * 10
    targets = torch.randint(11, (3, 4), generator=generator)
    expected = (logits / temperature).log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    torch.testing.assert_close(token_log_probs(logits, targets, temperature), expected, rtol=0, atol=1e-9)


def test_token_log_probs_of_bfloat16_logits_are_computed_in_float32():
    logits = torch.randn(2, 3, 50).bfloat16()
    targets = torch.randint(50, (2, 3))
    log_probs = token_log_probs(logits, targets)
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs, token_log_probs(logits.float(), targets))


@given(seed=seeds)
def test_k3_is_never_negative_and_zero_only_between_equals(seed):
    data = batch(seed)
    policy, reference = data["log_probs"].detach(), data["reference_log_probs"]
    kl = k3_kl(policy, reference)
    assert (kl >= 0).all()
    assert ((kl > 0) == (policy != reference)).all()
    assert (k3_kl(policy, policy) == 0).all()


def test_k3_is_an_unbiased_estimate_of_the_kl():
    policy, reference = torch.randn(2, 20, dtype=torch.float64, generator=torch.manual_seed(0)).log_softmax(-1)
    exact = (policy.exp() * (policy - reference)).sum()
    # Its expectation under the policy, summed over the whole vocabulary instead of sampled.
    torch.testing.assert_close((policy.exp() * k3_kl(policy, reference)).sum(), exact)


@given(
    seed=seeds,
    aggregation=aggregations,
    junk=st.sampled_from([(0.0, -1e9), (-math.inf, -math.inf), (math.nan, 0.0)]),
)
def test_masked_positions_reach_neither_loss_nor_gradient(seed, aggregation, junk):
    data = batch(seed)
    options = {"aggregation": aggregation, "kl_weight": 0.1}
    loss, stats = loss_of(data, **options)
    padding = data["mask"] == 0
    assert gradient(loss, data)[padding].abs().sum() == 0
    junked = {
        "log_probs": data["log_probs"].detach().masked_fill(padding, junk[0]).requires_grad_(),
        "old_log_probs": data["old_log_probs"].masked_fill(padding, junk[1]),
        "reference_log_probs": data["reference_log_probs"].masked_fill(padding, math.inf),
    }
    loss_beside_junk, stats_beside_junk = loss_of(data | junked, **options)
    assert loss_beside_junk.item() == loss.item()
    assert {k: v.item() for k, v in stats_beside_junk.items()} == {k: v.item() for k, v in stats.items()}
    assert torch.equal(gradient(loss_beside_junk, junked), gradient(loss_of(data, **options)[0], data))


@given(seed=seeds, aggregation=aggregations)
def test_an_empty_mask_gives_zero_loss_and_gradient(seed, aggregation):
    data = batch(seed)
    data["mask"] = torch.zeros_like(data["mask"])
    loss, _ = loss_of(data, aggregation=aggregation, kl_weight=0.1)
    assert loss.item() == 0
    assert gradient(loss, data).abs().max() == 0


@given(seed=seeds, aggregation=aggregations, cut=st.integers(1, 5))
def test_parts_with_global_counts_add_up_to_the_whole(seed, aggregation, cut):
    data = batch(seed)
    whole, _ = loss_of(data, aggregation=aggregation, kl_weight=0.1)
    counts = {"token_count": data["mask"].sum(), "sequence_count": 6}
    parts = [{name: value[rows] for name, value in data.items()} for rows in (slice(cut), slice(cut, None))]
    total = sum(loss_of(part, aggregation=aggregation, kl_weight=0.1, **counts)[0] for part in parts)
    torch.testing.assert_close(total, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(total, data), gradient(whole, data), rtol=1e-12, atol=1e-12)


@given(seed=seeds)
def test_aggregations_weigh_tokens_as_their_papers_say(seed):
    data = batch(seed)
    data["old_log_probs"] = data["log_probs"].detach()  # the ratio is 1: the gradient per token is -A times its weight
    lengths = data["mask"].sum(1, keepdim=True)
    weights = {
        Aggregation.sequence: 1 / (lengths * 6),
        Aggregation.token: 1 / data["mask"].sum(),
        Aggregation.constant: torch.tensor(1 / (6 * MAX_ANSWER_TOKENS)),
    }
    for aggregation, weight in weights.items():
        loss, _ = loss_of(data, aggregation=aggregation)
        expected = -data["advantages"][:, None] * weight * data["mask"]
        torch.testing.assert_close(gradient(loss, data), expected)


@pytest.mark.parametrize(
    ("ratio", "advantage", "has_gradient", "clipped"),
    [
        (1.25, 1.0, True, None),  # within 1 + clip_high = 1.28
        (1.30, 1.0, False, "clip_high_fraction"),
        (1.30, -1.0, True, None),  # pessimism: a bad token that became likelier is pushed back in full
        (0.85, -1.0, True, None),  # within 1 - clip_low = 0.8
        (0.75, -1.0, False, "clip_low_fraction"),
        (0.75, 1.0, True, None),
    ],
)
def test_the_clip_has_two_bounds_and_bites_on_the_side_of_the_advantage(ratio, advantage, has_gradient, clipped):
    data = {
        "log_probs": torch.tensor([[math.log(ratio)]], requires_grad=True),
        "old_log_probs": torch.zeros(1, 1),
        "advantages": torch.tensor([advantage]),
        "mask": torch.ones(1, 1),
    }
    loss, stats = loss_of(data, clip_low=0.2, clip_high=0.28)
    assert (gradient(loss, data) != 0).all() == has_gradient
    assert stats["ratio"].item() == pytest.approx(ratio)
    assert stats["clip_fraction"].item() == (clipped is not None)
    for name in ("clip_low_fraction", "clip_high_fraction"):
        assert stats[name].item() == (name == clipped)


@given(seed=seeds, aggregation=aggregations)
def test_the_kl_penalty_is_k3_aggregated_like_the_rest(seed, aggregation):
    data = batch(seed)
    data["advantages"] = torch.zeros(6, dtype=torch.float64)
    loss, stats = loss_of(data, aggregation=aggregation, kl_weight=0.5)
    kl = k3_kl(data["log_probs"], data["reference_log_probs"]).detach() * data["mask"]
    expected = {
        Aggregation.sequence: (kl.sum(1) / data["mask"].sum(1)).mean(),
        Aggregation.token: kl.sum() / data["mask"].sum(),
        Aggregation.constant: kl.sum() / (6 * MAX_ANSWER_TOKENS),
    }
    torch.testing.assert_close(loss.detach(), 0.5 * expected[aggregation])
    torch.testing.assert_close(stats["kl"], kl.sum() / data["mask"].sum())


def test_a_reference_without_weight_is_reported_and_not_trained_on():
    data = batch(0)
    with_reference, stats = loss_of(data, kl_weight=0.0)
    without, no_stats = loss_of(data | {"reference_log_probs": None})
    assert with_reference.item() == without.item()
    assert stats["kl"] > 0
    assert "kl" not in no_stats


def test_a_kl_weight_needs_a_reference():
    with pytest.raises(ValueError, match=r"kl_weight=0\.1 needs reference_log_probs"):
        loss_of(batch(0) | {"reference_log_probs": None}, kl_weight=0.1)


def test_stats_carry_no_gradient():
    _, stats = loss_of(batch(0), kl_weight=0.1)
    assert not any(value.requires_grad for value in stats.values())


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float64])
def test_masks_may_have_any_type(dtype):
    data = batch(0)
    expected = loss_of(data)[0].item()
    assert loss_of(data | {"mask": data["mask"].to(dtype)})[0].item() == pytest.approx(expected, rel=1e-12)


def sft_batch(seed, sequences=5, tokens=4, vocabulary=9):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(sequences, tokens, vocabulary, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.randint(vocabulary, (sequences, tokens), generator=generator)
    mask = torch.rand(sequences, tokens, generator=generator) < 0.6
    mask[0, 0] = True
    return logits, targets, mask


@given(seed=seeds)
def test_sft_loss_is_the_mean_over_answer_tokens(seed):
    logits, targets, mask = sft_batch(seed)
    expected = -(token_log_probs(logits, targets) * mask).sum() / mask.sum()
    torch.testing.assert_close(sft_loss(logits, targets, mask), expected)


@given(seed=seeds)
def test_sft_gives_masked_positions_no_gradient(seed):
    logits, targets, mask = sft_batch(seed)
    (grad,) = torch.autograd.grad(sft_loss(logits, targets, mask), logits)
    assert (grad.abs().sum(-1) > 0).equal(mask)


@given(seed=seeds, cut=st.integers(1, 4))
@settings(max_examples=50)
def test_sft_parts_with_the_global_count_add_up_to_the_whole(seed, cut):
    logits, targets, mask = sft_batch(seed)
    whole = sft_loss(logits, targets, mask)
    parts = [sft_loss(logits[rows], targets[rows], mask[rows], mask.sum()) for rows in (slice(cut), slice(cut, None))]
    torch.testing.assert_close(sum(parts), whole)
    expected, actual = torch.autograd.grad(whole, logits), torch.autograd.grad(sum(parts), logits)
    torch.testing.assert_close(actual, expected)


def test_sft_of_an_empty_mask_is_zero():
    logits, targets, mask = sft_batch(0)
    loss = sft_loss(logits, targets, torch.zeros_like(mask))
    assert loss.item() == 0
    assert torch.autograd.grad(loss, logits)[0].abs().max() == 0


def test_sft_ignores_targets_at_masked_positions():
    logits, targets, mask = sft_batch(0)
    assert sft_loss(logits, targets.masked_fill(~mask, -1), mask).item() == sft_loss(logits, targets, mask).item()


@given(seed=seeds)
def test_a_sequences_ratio_is_the_geometric_mean_of_its_tokens(seed):
    data = batch(seed)
    loss, _ = loss_of(data, importance_level=ImportanceLevel.sequence, clip_low=0.05, clip_high=0.05)
    terms = []
    for row in range(6):  # GSPO, arXiv:2507.18071, eq. 5 and 7, one sequence at a time
        length = int(data["mask"][row].sum())
        ratios = (data["log_probs"][row] - data["old_log_probs"][row])[:length].detach().exp()
        s, advantage = ratios.prod() ** (1 / length), data["advantages"][row]
        terms.append(torch.minimum(s * advantage, s.clamp(0.95, 1.05) * advantage))
    torch.testing.assert_close(loss.detach(), -torch.stack(terms).mean())


def test_a_clipped_sequence_has_no_gradient_at_any_of_its_tokens():
    data = {
        "log_probs": torch.tensor([[0.9, -0.1], [0.1, 0.1]]).requires_grad_(),
        "old_log_probs": torch.zeros(2, 2),
        "advantages": torch.ones(2),
        "mask": torch.ones(2, 2),
    }
    loss, stats = loss_of(data, importance_level=ImportanceLevel.sequence)
    assert (gradient(loss, data) != 0).tolist() == [[False, False], [True, True]]
    assert stats["clip_high_fraction"].item() == 0.5


@given(seed=seeds, aggregation=aggregations, cut=st.integers(1, 5))
def test_parts_of_sequence_ratios_add_up_to_the_whole(seed, aggregation, cut):
    data = batch(seed)
    options = {"aggregation": aggregation, "importance_level": ImportanceLevel.sequence}
    whole, _ = loss_of(data, **options)
    counts = {"token_count": data["mask"].sum(), "sequence_count": 6}
    parts = [{name: value[rows] for name, value in data.items()} for rows in (slice(cut), slice(cut, None))]
    total = sum(loss_of(part, **options, **counts)[0] for part in parts)
    torch.testing.assert_close(gradient(total, data), gradient(whole, data), rtol=1e-12, atol=1e-12)


def pairs(seed, count=5):
    generator = torch.Generator().manual_seed(seed)
    names = ("chosen", "rejected", "reference_chosen", "reference_rejected")
    return {name: -torch.rand(count, generator=generator, dtype=torch.float64) * 9 for name in names}


@given(seed=seeds, beta=st.floats(0.01, 2.0), smoothing=st.floats(0.0, 0.49))
def test_dpo_is_the_likelihood_of_preferences_under_bradley_terry(seed, beta, smoothing):
    data = pairs(seed)
    loss, stats = dpo_loss(**data, beta=beta, label_smoothing=smoothing)
    better = beta * (data["chosen"] - data["reference_chosen"])
    worse = beta * (data["rejected"] - data["reference_rejected"])
    both = better.exp() + worse.exp()
    expected = -((1 - smoothing) * (better.exp() / both).log() + smoothing * (worse.exp() / both).log()).mean()
    torch.testing.assert_close(loss, expected)
    assert stats["preference_accuracy"].item() == pytest.approx((better > worse).double().mean().item())


@given(seed=seeds)
def test_dpo_of_the_reference_itself_is_log_two_and_prefers_the_chosen(seed):
    data = pairs(seed)
    data |= {"reference_chosen": data["chosen"].clone(), "reference_rejected": data["rejected"].clone()}
    chosen, rejected = data["chosen"].requires_grad_(), data["rejected"].requires_grad_()
    loss, _ = dpo_loss(**data, beta=0.5)
    assert loss.item() == pytest.approx(math.log(2))
    up, down = torch.autograd.grad(loss, (chosen, rejected))
    torch.testing.assert_close(up, torch.full_like(up, -0.05))
    torch.testing.assert_close(down, -up)


@given(seed=seeds, cut=st.integers(1, 4))
def test_parts_of_pairs_with_the_global_count_add_up(seed, cut):
    data = pairs(seed)
    whole, _ = dpo_loss(**data, beta=0.3, label_smoothing=0.1)
    parts = [{name: value[rows] for name, value in data.items()} for rows in (slice(cut), slice(cut, None))]
    total = sum(dpo_loss(**part, beta=0.3, label_smoothing=0.1, pair_count=5)[0] for part in parts)
    torch.testing.assert_close(total, whole)


def test_a_sequences_log_probability_is_the_sum_over_its_answer():
    log_probs = torch.tensor([[-1.0, -2.0, math.nan], [-0.5, -math.inf, -9.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert sequence_log_probs(log_probs, mask).tolist() == [-3.0, -0.5]
