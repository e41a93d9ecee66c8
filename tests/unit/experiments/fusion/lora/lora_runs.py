"""Fused runs of adapters, and their oracle: peft's model alone, torch's AdamW and clipping, transformers' own loss."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from experiments.batches import DataOrder, encode_answers, encode_prompts, seeded_generator
from experiments.dynamic_sampling import first, has_spread, joined_prompts, joined_rollouts
from experiments.fusion.bundle import SoloProgress
from experiments.fusion.lora.base import FrozenBase
from experiments.fusion.lora.bundle import LoraBundle
from experiments.judging import Judge
from experiments.losses import group_advantages, grpo_loss, sft_loss, token_log_probs
from experiments.models.adapter import Adapter, draw_adapter
from experiments.models.hf import HfModel, find_sites
from experiments.models.shared_prompt import completion_logits
from experiments.rewards import completion_rewards, without_truncated
from experiments.rollout import generate, sampling_noise
from experiments.tasks import CharTokenizer, Task, load_task
from orchestrator.schema.training import LoraConfig, stage_config
from tests.unit.experiments.fusion.fused_runs import CPU, GRPO, SFT, FusedRun, advance
from tests.unit.experiments.peft_alone import LoraModel

TOKENIZER = CharTokenizer()
TARGETS = ("q_proj", "v_proj", "down_proj")
MAX_RANK = 8
SHORT = {"sft": {**SFT, "max_steps": 12}, "grpo": {**GRPO, "max_steps": 12}}
SIZE = {
    "vocab_size": TOKENIZER.vocab_size,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
SHAPES = [(2, 4.0), (8, 8.0), (1, 2.0), (4, 10.5), (3, 1.0), (8, 32.0), (5, 5.0), (2, 16.0)]
"""Rank and alpha of each member."""


def tiny_model(family: str = "llama", seed: int = 0, **options: Any) -> PreTrainedModel:
    """Two layers with random weights far from their usual start, so that no part of them is close to linear."""
    torch.manual_seed(seed)
    if family == "llama":
        model = LlamaForCausalLM(LlamaConfig(**{**SIZE, **options}))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**{**SIZE, **options}))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(10.0)
    return model.eval()


def pretrained(task: Task, steps: int = 200) -> PreTrainedModel:
    """A model that is right now and then, so that groups of completions have spread."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZE))
    called, adam, order = HfModel(model), torch.optim.AdamW(model.parameters(), lr=1e-2), DataOrder(len(task.rl), 0)
    for step in range(steps):
        batch = [task.rl[i] for i in order[step * 16 : step * 16 + 16]]
        prompts = encode_prompts([example.prompt for example in batch], TOKENIZER, CPU)
        answers = encode_answers([example.answer for example in batch], TOKENIZER, CPU)
        loss = sft_loss(
            completion_logits(called, prompts.tokens, answers.tokens, prompts.padding), answers.tokens, answers.mask
        )
        loss.backward()
        adam.step()
        adam.zero_grad()
    return model


def random_adapter(base: FrozenBase, rank: int, alpha: float, seed: int = 0) -> Adapter:
    """One that has been trained: its B is not zero."""
    generator = torch.Generator().manual_seed(seed)
    adapter = draw_adapter(base.sites, base.target_modules, rank, alpha, generator)
    for site in base.sites:
        adapter.weights[site.b].normal_(0.0, 0.3, generator=generator)
    return adapter


def task_of(folder: Path, data: dict[str, Any]) -> Task:
    return load_task(stage_config(data).task, folder / "cache")


def lora_bundle(
    model: PreTrainedModel,
    task: Task,
    datas: dict[str, dict[str, Any]],
    shapes=SHAPES,
    max_rank=MAX_RANK,
    **options: Any,
) -> LoraBundle:
    """A bundle of fresh members over a copy of `model`; `shapes` are the members' ranks and alphas."""
    base = FrozenBase(copy.deepcopy(model), TARGETS)
    bundle = LoraBundle(task, stage_config(next(iter(datas.values()))), base, max_rank, **options)
    for (name, data), (rank, alpha) in zip(datas.items(), shapes, strict=False):
        bundle.put_in(
            name, SoloProgress(stage_config(data)), bundle.fresh_member(LoraConfig(rank, alpha), data["seed"])
        )
    return bundle


def run_fused(model: PreTrainedModel, task: Task, datas: list[dict[str, Any]], shapes=SHAPES) -> FusedRun:
    """All variants as one bundle, for as long as they all last; members are named by their number."""
    bundle, run = lora_bundle(model, task, {str(n): data for n, data in enumerate(datas)}, shapes), FusedRun()
    advance(bundle, run, datas[0]["algorithm"]["max_steps"])
    run.weights = {name: bundle.adapter(name).weights for name in bundle.names}
    return run


@dataclass
class Solo:
    """One adapter in training by itself."""

    model: LoraModel
    adam: torch.optim.AdamW
    clip: float
    series: dict[str, list[float]]

    @classmethod
    def of(cls, model: PreTrainedModel, data: dict[str, Any], rank: int, alpha: float) -> "Solo":
        base, config = copy.deepcopy(model), stage_config(data)
        generator = seeded_generator(config.seed, "weights")
        lora = LoraModel(base, draw_adapter(find_sites(base, TARGETS), TARGETS, rank, alpha, generator))
        o = config.optimizer
        adam = torch.optim.AdamW(
            lora.trained().values(), lr=o.lr, betas=(o.beta1, o.beta2), eps=o.eps, weight_decay=o.weight_decay
        )
        return cls(lora, adam, config.deepspeed.gradient_clipping, {})

    def learn(self, loss: torch.Tensor, lr: float) -> dict[str, float]:
        loss.backward()
        norm = clip_grad_norm_(list(self.model.trained().values()), self.clip or float("inf"))
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        self.adam.zero_grad()
        return {"train/loss": float(loss.detach()), "train/grad_norm": float(norm)}

    def say(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.series.setdefault(name, []).append(value)


def run_solo_sft(model: PreTrainedModel, task: Task, data: dict[str, Any], rank: int, alpha: float) -> Solo:
    """By the loss of transformers, over sequences padded on the right as its users pad them."""
    solo, progress = Solo.of(model, data, rank, alpha), SoloProgress(stage_config(data))
    order = DataOrder(len(task.supervised), data["seed"])
    for _ in range(data["algorithm"]["max_steps"]):
        batch = [task.supervised[i] for i in order[progress.next_items()]]
        asked = [[TOKENIZER.bos_id, *TOKENIZER.encode(example.prompt)] for example in batch]
        said = [[*TOKENIZER.encode(example.answer), TOKENIZER.eos_id] for example in batch]
        longest = max(len(q) + len(a) for q, a in zip(asked, said, strict=True))
        pads = [longest - len(q) - len(a) for q, a in zip(asked, said, strict=True)]
        triples = list(zip(asked, said, pads, strict=True))
        output = solo.model.model(
            input_ids=torch.tensor([q + a + [TOKENIZER.pad_id] * pad for q, a, pad in triples]),
            attention_mask=torch.tensor([[1] * (len(q) + len(a)) + [0] * pad for q, a, pad in triples]),
            labels=torch.tensor([[-100] * len(q) + a + [-100] * pad for q, a, pad in triples]),
        )
        solo.say(solo.learn(output.loss, progress.learning_rate()))
        progress.complete_step()
    return solo


def run_solo_grpo(model: PreTrainedModel, task: Task, data: dict[str, Any], rank: int, alpha: float) -> Solo:
    """The steps of `experiments.stages.grpo`, over peft's model."""
    solo, progress = Solo.of(model, data, rank, alpha), SoloProgress(stage_config(data))
    algorithm, group = progress.config.algorithm, progress.config.algorithm.group_size
    order, max_tokens = DataOrder(len(task.rl), data["seed"]), task.config.max_answer_tokens
    reference, heat, judge = HfModel(copy.deepcopy(model)), algorithm.temperature, Judge(task, TOKENIZER)
    for _ in range(algorithm.max_steps):
        rounds, wanted = [], algorithm.prompts_per_step
        while wanted and len(rounds) < algorithm.max_sampling_rounds:
            start = progress.position + len(rounds) * algorithm.prompts_per_step
            problems = [task.rl[i] for i in order[start : start + algorithm.prompts_per_step]]
            prompts = encode_prompts([problem.prompt for problem in problems], TOKENIZER, CPU)
            noise = sampling_noise(len(problems) * group, max_tokens, progress.sampler)
            rollout = generate(
                solo.model, prompts, TOKENIZER, max_tokens, group_size=group, temperature=heat, noise=noise
            )
            shaping = (algorithm.overlong_buffer or None, algorithm.length_penalty or None)
            rewards = completion_rewards(judge, problems, rollout, *shaping)
            if algorithm.mask_truncated:
                rollout = without_truncated(rollout, TOKENIZER)
            chosen = first(has_spread(rewards), wanted)
            wanted -= int(chosen.sum())
            rounds.append((prompts, rollout, rewards, chosen))
        prompts = joined_prompts([each[0] for each in rounds], TOKENIZER.pad_id)
        rollout, rewards = joined_rollouts([each[1] for each in rounds]), torch.cat([each[2] for each in rounds])
        kept = torch.cat([each[3] for each in rounds]).nonzero().squeeze(1)
        rows = (kept[:, None] * group + torch.arange(group)).flatten()
        some, tokens, mask = prompts.select(kept), rollout.tokens[rows], rollout.mask[rows]
        solo.say({"train/reward": float(rewards.mean()), "train/groups_skipped": float(len(rewards) - len(kept))})
        values: list[dict[str, float]] = []
        for _ in range(algorithm.updates_per_rollout if mask.any() else 0):
            with torch.no_grad():
                before = completion_logits(reference, some.tokens, tokens, some.padding)
            loss, _ = grpo_loss(
                token_log_probs(completion_logits(solo.model, some.tokens, tokens, some.padding), tokens, heat),
                rollout.log_probs[rows],
                group_advantages(rewards[kept], algorithm.advantage_scale, algorithm.baseline).flatten(),
                mask,
                clip_low=algorithm.clip_low,
                clip_high=algorithm.clip_high,
                aggregation=algorithm.aggregation,
                max_answer_tokens=max_tokens,
                reference_log_probs=token_log_probs(before, tokens, heat) if algorithm.kl_weight else None,
                kl_weight=algorithm.kl_weight,
                importance_level=algorithm.importance_level,
                sequence_count=len(rows),
            )
            values.append(solo.learn(loss, progress.learning_rate()))
        if values:
            solo.say({name: sum(value[name] for value in values) / len(values) for name in values[0]})
        progress.complete_step(len(rounds))
    return solo
