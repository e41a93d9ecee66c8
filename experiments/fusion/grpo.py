"""One GRPO step of every member of a stack: rollout, rewards, updates; the maths of `experiments.stages.grpo`.

Members have one number of prompts, group size, answer length and number of updates a rollout. Each samples with its own
noise at its own temperature. Groups without spread are skipped in each member by itself: a member with fewer groups
left than another is padded with masked ones, and one without any is not updated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.batches import Prompts, encode_prompts
from experiments.fusion.decoder import StackedDecoder
from experiments.fusion.engine import StackEngine
from experiments.fusion.losses import GrpoKnobs, advantages_of_members, grpo_losses, tempered_log_probs
from experiments.fusion.values import Phase, StepValues, any_time
from experiments.models.shared_prompt import completion_logits
from experiments.parts import timed_as
from experiments.rewards import completion_rewards
from experiments.rollout import Rollout, generate
from experiments.tasks import CharTokenizer, Problem, Task
from orchestrator.schema.training import GrpoConfig


@dataclass(frozen=True, slots=True)
class GrpoTurn:
    """One member's part in a step. noise: (prompts x G, max_answer_tokens), see `sampling_noise`."""

    algorithm: GrpoConfig
    problems: Sequence[Problem]
    noise: Tensor
    lr: float


class References:
    """The initial policies of those members whose KL weight is not 0, as a stack of their own.

    members: the stack's members that they belong to, in the order of the references.
    """

    def __init__(self, stack: StackedDecoder, members: Sequence[int]) -> None:
        self._stack, self._members = stack, list(members)

    @torch.no_grad()
    def log_probs(self, experience: "Experience", temperatures: Tensor | None) -> Tensor:
        """Those of the experience's completions, (N, T); zeros for members without a reference."""
        members = experience.members
        device = experience.tokens.device
        chosen = torch.tensor(self._members, device=device)

        def rows(each: int) -> Tensor:
            return (chosen[:, None] * each + torch.arange(each, device=device)).flatten()

        completions = rows(experience.tokens.shape[0] // members)
        prompts = experience.prompts.select(rows(len(experience.prompts) // members))
        tokens = experience.tokens[completions]
        logits = completion_logits(self._stack, prompts.tokens, tokens, prompts.padding)
        mine = None if temperatures is None else temperatures[chosen]
        out = torch.zeros(experience.tokens.shape, device=device)
        out[completions] = tempered_log_probs(logits, tokens, mine)
        return out


@dataclass(frozen=True, slots=True)
class Experience:
    """The groups that are learned from: K for each of M members, padded to the most that a member has.

    prompts: M x K. tokens, mask, old_log_probs: (M x K x G, T), the mask False in padding groups. advantages:
    (M x K x G,). groups: how many real ones each member has.
    """

    members: int
    prompts: Prompts
    tokens: Tensor
    mask: Tensor
    old_log_probs: Tensor
    advantages: Tensor
    groups: list[int]


def grpo_step(
    engine: StackEngine,
    turns: Sequence[GrpoTurn],
    task: Task,
    tokenizer: CharTokenizer,
    references: References | None = None,
    phase: Phase = any_time,
) -> list[StepValues]:
    """Samples, judges and learns. `references` is needed where a member has a KL weight. `phase` is entered around the
    `rollout` and around what comes after it, to `learn`."""
    device, max_tokens = engine.device, task.config.max_answer_tokens
    knobs = GrpoKnobs.of([turn.algorithm for turn in turns], device)
    if references is None and any(turn.algorithm.kl_weight for turn in turns):
        raise ValueError("a member with a kl_weight needs its initial policy: pass `references`")
    with phase("rollout"):
        problems = [problem for turn in turns for problem in turn.problems]
        prompts = encode_prompts([problem.prompt for problem in problems], tokenizer, device)
        rollout = generate(
            engine.stack,
            prompts,
            tokenizer,
            max_tokens,
            group_size=turns[0].algorithm.group_size,
            temperature=1.0 if knobs.temperatures is None else knobs.temperatures,
            noise=torch.cat([turn.noise for turn in turns]).to(device),
            members=len(turns),
        )
        rewards = completion_rewards(task, problems, rollout, tokenizer).to(device)
    updates: list[list[dict[str, float]]] = [[] for _ in turns]
    with phase("learn"):
        experience = with_spread(prompts, rollout, rewards, knobs, len(turns))
        if experience is not None:
            reference = None if references is None else references.log_probs(experience, knobs.temperatures)
            for _ in range(turns[0].algorithm.updates_per_rollout):
                values = update(engine, experience, knobs, turns, max_tokens, reference)
                for member, value in enumerate(values):
                    if experience.groups[member]:
                        updates[member].append(value)
    groups = [0] * len(turns) if experience is None else experience.groups
    return _values(turns, rollout, rewards, groups, updates)


@timed_as("data")
def with_spread(
    prompts: Prompts, rollout: Rollout, rewards: Tensor, knobs: GrpoKnobs, members: int
) -> Experience | None:
    """The groups whose `rewards` (M x P, G) differ; None where no member has one."""
    group = rewards.shape[1]
    spread = (rewards.amax(dim=1) != rewards.amin(dim=1)).view(members, -1)
    groups = spread.sum(dim=1).tolist()
    most = max(groups)
    if most == 0:
        return None
    device = rewards.device
    first = (~spread).byte().sort(dim=1, stable=True).indices[:, :most]
    kept = (first + torch.arange(members, device=device)[:, None] * spread.shape[1]).flatten()
    real = spread.flatten()[kept].repeat_interleave(group)[:, None]
    rows = (kept[:, None] * group + torch.arange(group, device=device)).flatten()
    return Experience(
        members=members,
        prompts=prompts.select(kept),
        tokens=rollout.tokens[rows],
        mask=rollout.mask[rows] & real,
        old_log_probs=rollout.log_probs[rows],
        advantages=advantages_of_members(rewards[kept], knobs).flatten(),
        groups=groups,
    )


def update(
    engine: StackEngine,
    experience: Experience,
    knobs: GrpoKnobs,
    turns: Sequence[GrpoTurn],
    max_tokens: int,
    reference: Tensor | None,
) -> list[dict[str, float]]:
    """One optimizer step of the members that have groups; each member's `train/*` values."""
    logits = completion_logits(engine, experience.prompts.tokens, experience.tokens, experience.prompts.padding)
    losses, stats = grpo_losses(
        tempered_log_probs(logits, experience.tokens, knobs.temperatures),
        experience.old_log_probs,
        experience.advantages,
        experience.mask,
        knobs,
        max_tokens,
        reference,
    )
    engine.backward(losses)
    engine.step([turn.lr for turn in turns], [count > 0 for count in experience.groups])
    named = {"loss": losses.detach(), **stats, "grad_norm": engine.grad_norms()}
    columns = dict(zip(named, torch.stack(list(named.values())).tolist(), strict=True))
    return [
        {f"train/{name}": columns[name][member] for name in columns if name != "kl" or turn.algorithm.kl_weight}
        for member, turn in enumerate(turns)
    ]


def _values(
    turns: Sequence[GrpoTurn], rollout: Rollout, rewards: Tensor, groups: Sequence[int], updates: list[list[dict]]
) -> list[StepValues]:
    members = len(turns)
    generated = rollout.mask.view(members, -1).sum(dim=1).tolist()
    means = rewards.view(members, -1).mean(dim=1).tolist()
    completions = rewards.numel() // members
    return [
        StepValues(
            updates=updates[member],
            tokens=generated[member] + sum(len(problem.prompt) + 1 for problem in turn.problems),
            step={"train/lr": turn.lr, "train/groups_skipped": float(len(turn.problems) - groups[member])},
            averages={
                "train/reward": means[member],
                "train/tokens_per_answer": generated[member] / completions,
            },
            problems=len(turn.problems),
        )
        for member, turn in enumerate(turns)
    ]
