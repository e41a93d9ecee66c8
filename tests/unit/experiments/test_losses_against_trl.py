"""Our losses against TRL's real trainers: the same weights and batches in float64, losses and gradients to 1e-6.

TRL's trainers run as they are, on a tiny model with random weights: they sample, score, accumulate and step. The
subclasses here only take notes. At each optimizer step, what TRL has in `.grad` is compared with what ours gives for
the micro-batches TRL trained on. Nothing is downloaded: the model, its reference and the tokenizer are built here.

TRL's head computes log-probabilities in float32 whatever the weights are (`ChunkedLogProbFunction`, an optimisation for
memory). So that float64 means float64, TRL's own unfused `selective_log_softmax_and_entropy` takes its place; further
tests leave the head as it ships.

TRL 1.16's `loss_type` names both aggregations and objectives. The aggregations, each of which is covered: grpo ->
sequence; dapo -> token over the global batch; bnpo -> token over each micro-batch, averaged; dr_grpo -> constant; luspo
-> constant with length 1. Each with token-level ratios, and grpo with sequence-level ones too (GSPO). Not aggregations,
so not covered: cispo (clips the weight of a REINFORCE term), sapo (a sigmoid gate in place of the clip), vespo (a gamma
weight on the sequence's ratio). For SFT: nll is covered, dft is another objective.
"""

import copy
import os
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from experiments.losses import (
    dpo_loss,
    group_advantages,
    grpo_loss,
    sequence_log_probs,
    sft_loss,
    token_log_probs,
)
from orchestrator.schema.training import AdvantageScale, Aggregation, Baseline, ImportanceLevel
from tests.hf_models import tiny_model

os.environ.setdefault("HF_HUB_OFFLINE", "1")

pytestmark = [
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

TOLERANCE = 1e-6
FLOAT64_TOLERANCE = 1e-10
GROUP, MICRO_BATCH, MICRO_BATCHES, MAX_ANSWER_TOKENS, TEMPERATURE = 4, 8, 2, 5, 0.8
SFT_MICRO_BATCH = 3
CHARACTERS = "0123456789+="

AGGREGATIONS = {
    "grpo": Aggregation.sequence,
    "dapo": Aggregation.token,
    "bnpo": Aggregation.token,
    "dr_grpo": Aggregation.constant,
    "luspo": Aggregation.constant,
}


@dataclass
class Step:
    """One optimizer step of TRL: its micro-batches, what TRL says of them, the weights before and its gradients."""

    inputs: list[dict[str, Any]] = field(default_factory=list)
    losses: list[torch.Tensor] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)


class UnfusedHead:
    """TRL's `ChunkedLogProbFunction` in the precision of its inputs, from TRL's own functions."""

    @staticmethod
    def apply(hidden, weight, bias, targets, temperature, chunk_size, softcap, logit_scale, outputs):
        from trl.trainer.utils import selective_log_softmax_and_entropy

        assert bias is None
        assert softcap is None
        assert logit_scale == 1.0
        logits = hidden @ weight.T
        log_probs, entropy = selective_log_softmax_and_entropy(logits, targets, temperature=temperature)
        return log_probs, entropy, None, logits.mean(-1), logits.argmax(-1) == targets


@pytest.fixture
def float64_head(monkeypatch):
    import trl.trainer.utils

    monkeypatch.setattr(trl.trainer.utils, "_ChunkedLogProbFunction", UnfusedHead)


@pytest.fixture(params=["float64", "as it ships"])
def tolerance(request):
    """Of losses and gradients, with either head."""
    if request.param == "as it ships":
        return TOLERANCE
    request.getfixturevalue("float64_head")
    return FLOAT64_TOLERANCE


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ("<pad>", "<bos>", "<eos>")
    vocabulary = {token: i for i, token in enumerate((*special, *CHARACTERS))}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=characters, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", padding_side="left"
    )


def random_model(seed):
    return tiny_model(
        seed=seed,
        vocab_size=3 + len(CHARACTERS),
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.4,  # peaked distributions, so that ratios leave the clip range within a step
    ).double()


def recording(trainer_class, **arguments):
    """An instance of `trainer_class` that notes each optimizer step in `.steps`."""
    from transformers import TrainerCallback

    steps = [Step()]

    class Recording(trainer_class):
        def compute_loss(self, model, inputs, *args, **kwargs):
            kept = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            steps[-1].inputs.append(kept)
            steps[-1].losses.append(loss.detach().clone())
            steps[-1].metrics.append({name: values[-1] for name, values in self._metrics["train"].items() if values})
            return loss

    class NoteGradients(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            steps[-1].weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
            steps[-1].gradients = {name: p.grad.detach().clone() for name, p in model.named_parameters()}
            steps.append(Step())

    trainer = Recording(callbacks=[NoteGradients()], **arguments)
    trainer.steps = steps
    return trainer


def common_arguments(path):
    return {
        "output_dir": str(path),
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "gradient_accumulation_steps": MICRO_BATCHES,
        "max_grad_norm": 0.0,  # no clipping: gradients are compared as they accumulate
        "optim": "sgd",
        "lr_scheduler_type": "constant",
    }


def assert_step_equals(step, twin, losses, tolerance):
    """`losses` are ours, of the step's micro-batches, computed from `twin`, whose weights are the step's."""
    twin.zero_grad()
    total = sum(losses)
    total.backward()
    assert abs(total.item() - sum(step.losses).item()) < tolerance
    assert_same_gradients(step, twin, tolerance)


def assert_same_gradients(step, twin, tolerance):
    ours = {name: p.grad for name, p in twin.named_parameters()}
    assert ours.keys() == step.gradients.keys()
    assert max(gradient.abs().max() for gradient in step.gradients.values()) > 1e-3
    for name, gradient in step.gradients.items():
        torch.testing.assert_close(ours[name], gradient, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@dataclass
class Scored:
    """What completions were given, rollout by rollout: rewards, and advantages in the order of the rewards."""

    rewards: list[list[float]] = field(default_factory=list)
    advantages: list[torch.Tensor] = field(default_factory=list)

    def reward(self, completions, **_):
        self.rewards.append([sum(map(int, filter(str.isdigit, c))) % 5 / 4 for c in completions])
        return self.rewards[-1]


def sampling_trainer(trainer_class, model, args, tokenizer):
    """A `recording` trainer that samples completions of sums, and how they were scored."""
    from datasets import Dataset

    scored = Scored()

    class Noting(trainer_class):
        def _generate_and_score_completions(self, inputs):
            batch = super()._generate_and_score_completions(inputs)
            scored.advantages.append(batch["advantages"])
            return batch

    prompts = Dataset.from_list([{"prompt": f"{a}+{b}="} for a in (1, 23) for b in (4, 56)])
    trainer = recording(
        Noting,
        model=model,
        args=args,
        reward_funcs=scored.reward,
        train_dataset=prompts,
        processing_class=tokenizer,
    )
    return trainer, scored


def sampling_arguments(path):
    return {
        **common_arguments(path),
        "per_device_train_batch_size": MICRO_BATCH,
        "num_generations": GROUP,
        "max_completion_length": MAX_ANSWER_TOKENS,
        "temperature": TEMPERATURE,
        "learning_rate": 0.3,
    }


def grpo_trainer(tmp_path, tokenizer, *, loss_type, beta, clip_high, scale_rewards, **more):
    from trl import GRPOConfig, GRPOTrainer

    random_model(seed=1).save_pretrained(tmp_path / "reference")
    model = random_model(seed=0)
    model.config._name_or_path = str(tmp_path / "reference")  # where TRL takes the reference from
    twin = copy.deepcopy(model)  # before TRL patches the forward pass
    args = GRPOConfig(
        **sampling_arguments(tmp_path),
        num_iterations=2,
        max_steps=2,
        loss_type=loss_type,
        beta=beta,
        use_bias_correction_kl=False,  # on by default in TRL: k3 times the ratio (DeepSeek-V3.2), not GRPO's eq. 4
        epsilon=0.2,
        epsilon_high=clip_high,
        scale_rewards=scale_rewards,
        **more,
    )
    trainer, scored = sampling_trainer(GRPOTrainer, model, args, tokenizer)
    return trainer, twin, scored


def completion_log_probs(policy, inputs):
    """Ours, (N, T), of a micro-batch of completions."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    length = inputs["completion_ids"].size(1)
    logits = policy(input_ids=ids, attention_mask=attention).logits[:, -length - 1 : -1]
    return token_log_probs(logits, inputs["completion_ids"], TEMPERATURE)


def our_grpo_losses(step, twin, *, loss_type, beta, clip_high, importance_level=ImportanceLevel.token):
    tokens = sum(inputs["completion_mask"].sum() for inputs in step.inputs)
    sequences = MICRO_BATCH * len(step.inputs)
    for inputs in step.inputs:
        mask = inputs["completion_mask"]
        yield grpo_loss(
            completion_log_probs(twin, inputs),
            inputs["old_per_token_logps"],
            inputs["advantages"].double(),
            mask,
            clip_low=0.2,
            clip_high=clip_high,
            aggregation=AGGREGATIONS[loss_type],
            max_answer_tokens=1 if loss_type == "luspo" else MAX_ANSWER_TOKENS,
            # bnpo averages over each micro-batch, then over micro-batches; all others over the global batch.
            token_count=mask.sum() * len(step.inputs) if loss_type == "bnpo" else tokens,
            sequence_count=sequences,
            reference_log_probs=inputs.get("ref_per_token_logps"),
            kl_weight=beta,
            importance_level=importance_level,
        )


def assert_trained_alike(trainer, twin, tolerance, *, compare_clipped=True, **options):
    trainer.train()
    for step in trainer.steps[:2]:
        assert len(step.inputs) == MICRO_BATCHES
        twin.load_state_dict(step.weights)
        ours = list(our_grpo_losses(step, twin, **options))
        assert_step_equals(step, twin, [loss for loss, _ in ours], tolerance)
        stats = [stats for _, stats in ours]
        on_policy = step is trainer.steps[0]
        assert any(s["clip_fraction"] > 0 for s in stats) != on_policy  # else the clip would go untested
        compared = {"clip_low_fraction": "clip_ratio/low_mean", "clip_high_fraction": "clip_ratio/high_mean"}
        compared = compared if compare_clipped else {}
        for name, theirs in (compared | {"kl": "kl"} if options["beta"] else compared).items():
            metrics = [m[theirs] for m in step.metrics]  # float32 in TRL
            assert [s[name].item() for s in stats] == pytest.approx(metrics, rel=TOLERANCE, abs=TOLERANCE), name


@pytest.mark.usefixtures("float64_head")
@pytest.mark.parametrize("clip_high", [0.2, 0.28], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("beta", [0.0, 0.1], ids=["without-kl", "with-kl"])
@pytest.mark.parametrize("loss_type", AGGREGATIONS)
def test_grpo_loss_and_gradients(tmp_path, tokenizer, loss_type, beta, clip_high):
    options = {"loss_type": loss_type, "beta": beta, "clip_high": clip_high}
    trainer, twin, _ = grpo_trainer(tmp_path, tokenizer, scale_rewards="group", **options)
    assert_trained_alike(trainer, twin, FLOAT64_TOLERANCE, **options)


@pytest.mark.usefixtures("float64_head")
@pytest.mark.parametrize("beta", [0.0, 0.1], ids=["without-kl", "with-kl"])
def test_gspo_loss_and_gradients(tmp_path, tokenizer, beta):
    options = {"loss_type": "grpo", "beta": beta, "clip_high": 0.2}
    level = {"importance_sampling_level": "sequence"}
    trainer, twin, _ = grpo_trainer(tmp_path, tokenizer, scale_rewards="group", **options, **level)
    # TRL counts clipped sequences there, we count their tokens.
    options |= {"importance_level": ImportanceLevel.sequence, "compare_clipped": False}
    assert_trained_alike(trainer, twin, FLOAT64_TOLERANCE, **options)


@pytest.mark.usefixtures("float64_head")
@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_loss_and_gradients_without_truncated_completions(tmp_path, tokenizer, loss_type):
    options = {"loss_type": loss_type, "beta": 0.0, "clip_high": 0.28}
    trainer, twin, _ = grpo_trainer(
        tmp_path, tokenizer, scale_rewards="group", mask_truncated_completions=True, **options
    )
    # TRL hides masked completions from attention too, which changes nothing that is learned from.
    assert_trained_alike(trainer, twin, FLOAT64_TOLERANCE, **options)
    masked = [~inputs["completion_mask"].bool().any(dim=1) for inputs in trainer.steps[0].inputs]
    assert torch.cat(masked).any()


@pytest.mark.parametrize("loss_type", AGGREGATIONS)
def test_grpo_loss_and_gradients_with_the_head_as_it_ships(tmp_path, tokenizer, loss_type):
    options = {"loss_type": loss_type, "beta": 0.0, "clip_high": 0.28}
    trainer, twin, _ = grpo_trainer(tmp_path, tokenizer, scale_rewards="none", **options)
    assert_trained_alike(trainer, twin, TOLERANCE, **options)


@pytest.mark.parametrize(
    ("scale_rewards", "scale"), [("group", AdvantageScale.std), ("none", AdvantageScale.none)], ids=["std", "none"]
)
def test_group_advantages(tmp_path, tokenizer, scale_rewards, scale):
    trainer, _, scored = grpo_trainer(
        tmp_path, tokenizer, loss_type="dapo", beta=0.0, clip_high=0.2, scale_rewards=scale_rewards
    )
    trainer.train()
    assert_first_advantages(scored, scale, Baseline.group)


def assert_first_advantages(scored, scale, baseline):
    ours = group_advantages(torch.tensor(scored.rewards[0], dtype=torch.float64).view(-1, GROUP), scale, baseline)
    assert ours.abs().max() > 0
    # TRL keeps rewards in float32, hence a difference of its rounding.
    torch.testing.assert_close(ours.flatten(), scored.advantages[0].double(), rtol=0, atol=TOLERANCE)


def test_sft_loss_and_gradients(tmp_path, tokenizer, tolerance):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model = random_model(seed=0)
    twin = copy.deepcopy(model)
    args = SFTConfig(
        **common_arguments(tmp_path),
        per_device_train_batch_size=SFT_MICRO_BATCH,
        max_steps=2,
        learning_rate=0.1,
        completion_only_loss=True,
    )
    sums = [{"prompt": f"{a}+{b}=", "completion": str(a + b)} for a in (1, 23, 456) for b in (4, 56, 789, 9999)]
    trainer = recording(
        SFTTrainer, model=model, args=args, train_dataset=Dataset.from_list(sums), processing_class=tokenizer
    )
    trainer.train()
    for step in trainer.steps[:2]:
        twin.load_state_dict(step.weights)
        masks = [inputs["labels"][:, 1:] != -100 for inputs in step.inputs]
        prompt_tokens = [
            inputs["attention_mask"][:, 1:].bool() & ~m for inputs, m in zip(step.inputs, masks, strict=True)
        ]
        assert all(tokens.any() for tokens in prompt_tokens)
        token_count = sum(mask.sum() for mask in masks)
        losses = []
        for inputs, mask in zip(step.inputs, masks, strict=True):
            logits = twin(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
            losses.append(sft_loss(logits[:, :-1], inputs["input_ids"][:, 1:], mask, token_count))
        assert_step_equals(step, twin, losses, tolerance)


@pytest.mark.usefixtures("float64_head")
def test_rloo_advantages_and_first_update(tmp_path, tokenizer):
    """Of a rollout's first update, which is RLOO's REINFORCE estimator: the ratio is 1, and what its gradient is times
    the advantage is that of the sequence's log-probability. Afterwards TRL clips the ratio of whole sequences."""
    from trl import RLOOConfig, RLOOTrainer

    model = random_model(seed=0)
    twin = copy.deepcopy(model)
    args = RLOOConfig(**sampling_arguments(tmp_path), max_steps=1, beta=0.0)
    trainer, scored = sampling_trainer(RLOOTrainer, model, args, tokenizer)
    trainer.train()
    assert_first_advantages(scored, AdvantageScale.none, Baseline.leave_one_out)

    step = trainer.steps[0]
    losses = []
    for inputs in step.inputs:
        log_probs = completion_log_probs(twin, inputs)
        loss, _ = grpo_loss(
            log_probs,
            log_probs.detach(),
            inputs["advantages"].double(),
            inputs["completion_mask"],
            clip_low=0.2,
            clip_high=0.2,
            aggregation=Aggregation.constant,
            max_answer_tokens=1,
            sequence_count=MICRO_BATCH * len(step.inputs),
        )
        losses.append(loss)
    # Their loss is a mean of one ratio a sequence, ours a sum of one a token: of one gradient, not of one value.
    sum(losses).backward()
    assert_same_gradients(step, twin, FLOAT64_TOLERANCE)


def test_dpo_loss_and_gradients(tmp_path, tokenizer, tolerance):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    model, reference = random_model(seed=0), random_model(seed=1)
    twin, twin_of_reference = copy.deepcopy(model), copy.deepcopy(reference)
    args = DPOConfig(
        **common_arguments(tmp_path),
        per_device_train_batch_size=SFT_MICRO_BATCH,
        max_steps=2,
        learning_rate=0.1,
        beta=0.3,
    )
    pairs = [
        {"prompt": f"{a}+{b}=", "chosen": str(a + b), "rejected": str(10 * a + b)}
        for a in (1, 23, 456)
        for b in (4, 56, 789, 9999)
    ]
    trainer = recording(
        DPOTrainer,
        model=model,
        ref_model=reference,
        args=args,
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
    )
    trainer.train()

    def of_pairs(policy, inputs):
        logits = policy(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, :-1]
        log_probs = token_log_probs(logits, inputs["input_ids"][:, 1:])
        return sequence_log_probs(log_probs, inputs["completion_mask"][:, 1:]).chunk(2)

    for step in trainer.steps[:2]:
        twin.load_state_dict(step.weights)
        losses, margins = [], []
        for inputs in step.inputs:
            with torch.no_grad():
                references = of_pairs(twin_of_reference, inputs)
            count = SFT_MICRO_BATCH * len(step.inputs)
            loss, stats = dpo_loss(*of_pairs(twin, inputs), *references, beta=0.3, pair_count=count)
            losses.append(loss)
            margins.append(stats["margin"].item())
        step.losses = [loss / len(step.inputs) for loss in step.losses]  # the trainer does it, after it was noted
        assert margins == pytest.approx([m["rewards/margins"] for m in step.metrics], rel=1e-5, abs=1e-5)
        assert_step_equals(step, twin, losses, tolerance)
