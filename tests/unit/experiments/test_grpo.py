"""What one GRPO step learns from: which groups, against which old policy, and how hard.

The oracle recomputes each completion as a sequence of its own, and keeps a copy of the policy that sampled.
"""

import copy

import pytest
import torch

from experiments.batches import encode_prompts
from experiments.dynamic_sampling import has_spread
from experiments.losses import grpo_loss
from experiments.rollout import generate, sampling_noise
from experiments.stages import grpo
from experiments.tasks import CharTokenizer
from orchestrator.schema.training import Aggregation, GrpoConfig
from tests.unit.experiments.decoders import small_decoder

TOKENIZER = CharTokenizer()
TEXTS = ["1+2=", "10+3=", "7+7="]
MAX_TOKENS = 4
LR = 0.05
ALGORITHM = GrpoConfig(
    name="grpo",
    prompts_per_step=3,
    group_size=4,
    temperature=0.7,
    clip_low=0.1,
    clip_high=0.3,
    kl_weight=0.5,
    aggregation=Aggregation.token,
)
MIXED, SOLVED, HOPELESS = [1.0, 0.0, 0.0, 1.0], [1.0] * 4, [0.0] * 4


class PlainEngine:
    """The interface of `Engine` over a decoder and plain gradient descent; `gradients` has those of every step."""

    world_size, device = 1, torch.device("cpu")

    def __init__(self, decoder, accumulation=1):
        self.model, self.accumulation = decoder, accumulation
        self.micro_batches, self.gradients = 0, []

    def __call__(self, *args, **kwargs):
        return self.model(*args, **kwargs)

    def backward(self, loss):
        loss.backward()

    def step(self, lr):
        self.micro_batches += 1
        if self.micro_batches % self.accumulation:
            return
        self.gradients.append({name: weight.grad.clone() for name, weight in self.model.named_parameters()})
        with torch.no_grad():
            for weight in self.model.parameters():
                weight -= lr * weight.grad
        self.model.zero_grad()

    def grad_norm(self):
        return torch.ones(())


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """One process, and no process group to ask."""
    monkeypatch.setattr(grpo, "sum_over_processes", lambda values: values)


@pytest.fixture
def sampled():
    policy = small_decoder()
    prompts = encode_prompts(TEXTS, TOKENIZER, policy.device)
    noise = sampling_noise(12, MAX_TOKENS, torch.Generator().manual_seed(1))
    options = {"group_size": 4, "temperature": ALGORITHM.temperature, "noise": noise}
    return policy, prompts, generate(policy, prompts, TOKENIZER, MAX_TOKENS, **options)


def _experience(prompts, rollout, rewards, reference=None):
    rewards = torch.tensor(rewards)
    sampled = grpo.Round(prompts, rollout, rewards, has_spread(rewards), generated=0, prompted=0)
    return grpo.learned_from([sampled], ALGORITHM, reference, TOKENIZER.pad_id)


def _log_probs(model, text, answer):
    """Of the tokens of `answer` after `text`, in a sequence of their own, without cache, padding or sharing."""
    tokens = torch.tensor([TOKENIZER.bos_id, *TOKENIZER.encode(text), *answer.tolist()])
    logits = model(tokens[None, :-1], torch.arange(len(tokens) - 1))[0, -len(answer) :] / ALGORITHM.temperature
    return logits.log_softmax(-1).gather(-1, answer[:, None])[:, 0]


def _expected_gradients(policy, sampler, reference, rollout, rewards):
    """Gradients at `policy` of the loss over the groups with spread, one completion at a time."""
    groups = [index for index, row in enumerate(rewards) if len(set(row)) > 1]
    rows = [group * 4 + member for group in groups for member in range(4)]
    tokens, mask = rollout.tokens[rows], rollout.mask[rows]

    def all_log_probs(model):
        return torch.stack([_log_probs(model, TEXTS[row // 4], rollout.tokens[row]) for row in rows])

    kept = torch.tensor([rewards[group] for group in groups])
    advantages = (kept - kept.mean(1, keepdim=True)) / (kept.std(1, keepdim=True) + 1e-4)
    with torch.no_grad():
        old, initial = all_log_probs(sampler), all_log_probs(reference)
    policy.zero_grad()
    loss, _ = grpo_loss(
        all_log_probs(policy),
        old,
        advantages.flatten(),
        mask,
        clip_low=0.1,
        clip_high=0.3,
        aggregation=Aggregation.token,
        max_answer_tokens=tokens.shape[1],
        reference_log_probs=initial,
        kl_weight=0.5,
    )
    loss.backward()
    return {name: weight.grad.clone() for name, weight in policy.named_parameters()}


def test_only_groups_whose_rewards_differ_are_kept_and_counted(sampled):
    _, prompts, rollout = sampled
    experience = _experience(prompts, rollout, [SOLVED, MIXED, HOPELESS])
    assert experience.sequence_count == 4
    assert experience.token_count == int(rollout.mask[4:8].sum())
    assert torch.equal(experience.tokens, rollout.tokens[4:8])
    assert torch.equal(experience.prompts.tokens, prompts.tokens[1:2])
    assert experience.advantages.tolist() == pytest.approx([0.866, -0.866, -0.866, 0.866], abs=1e-3)


def test_a_step_without_spread_has_nothing_to_learn_from(sampled):
    _, prompts, rollout = sampled
    experience = _experience(prompts, rollout, [SOLVED, HOPELESS, SOLVED])
    assert (experience.sequence_count, experience.token_count) == (0, 0)
    assert not experience.mask.any()


def test_every_update_of_a_rollout_is_against_the_policy_that_sampled_and_the_initial_one(sampled):
    policy, prompts, rollout = sampled
    sampler, initial = copy.deepcopy(policy), small_decoder(seed=7)
    rewards = [MIXED, SOLVED, [0.0, 0.0, 0.0, 1.0]]
    experience = _experience(prompts, rollout, rewards, initial)
    engine = PlainEngine(policy)
    for number in range(3):
        before = copy.deepcopy(policy)
        values = grpo.update(engine, experience, ALGORITHM, MAX_TOKENS, LR)
        expected = _expected_gradients(before, sampler, initial, rollout, rewards)
        for name, gradient in engine.gradients[number].items():
            torch.testing.assert_close(gradient, expected[name], atol=2e-5, rtol=1e-3)
        assert values["train/kl"] > 0
    assert values["train/clip_fraction"] > 0  # the later updates do move the ratio out of its bounds


@pytest.mark.parametrize("accumulation", [2, 3], ids=lambda parts: f"{parts}-micro-batches")
def test_micro_batches_add_up_and_one_without_a_group_counts_for_nothing(sampled, accumulation):
    policy, prompts, rollout = sampled
    experience = _experience(prompts, rollout, [MIXED, SOLVED, MIXED], small_decoder(seed=7))
    whole, parts = PlainEngine(copy.deepcopy(policy)), PlainEngine(policy, accumulation)
    expected = grpo.update(whole, experience, ALGORITHM, MAX_TOKENS, LR)
    values = grpo.update(parts, experience, ALGORITHM, MAX_TOKENS, LR)
    assert len(parts.gradients) == 1
    for name, gradient in parts.gradients[0].items():
        torch.testing.assert_close(gradient, whole.gradients[0][name], atol=2e-5, rtol=1e-3)
    assert {name: float(value) for name, value in values.items()} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, abs=1e-5
    )
