"""One GRPO step of every member of a stack: rollout, rewards, updates; the maths of `experiments.stages.grpo`.

Members have one number of prompts, group size, answer length and number of updates a rollout. Each samples with its own
noise at its own temperature, for as many rounds as it needs and may take: those whose batch is full wait meanwhile.
Groups without spread are skipped in each member by itself: a member with fewer groups left than another is padded with
masked ones, and one without any is not updated.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.batches import Prompts, encode_prompts
from experiments.dynamic_sampling import first, has_spread, joined_prompts, joined_rollouts
from experiments.fusion.decoder import StackedDecoder
from experiments.fusion.engine import StackEngine
from experiments.fusion.losses import (
    GrpoKnobs,
    advantages_of_members,
    further_losses,
    grpo_losses,
    tempered_log_probs,
)
from experiments.fusion.values import Phase, StepValues, any_time
from experiments.judging import Judge
from experiments.models.decoder import PAD_ID
from experiments.models.multi_token import further_logits
from experiments.models.shared_prompt import completion_logits
from experiments.parts import timed_as
from experiments.rewards import completion_rewards, without_truncated
from experiments.rollout import Rollout, generate
from experiments.tasks import Problem
from orchestrator.schema.training import GrpoConfig


@dataclass(frozen=True, slots=True)
class Draw:
    """What a round samples for one member. noise: (prompts x G, max_answer_tokens), see `sampling_noise`."""

    problems: Sequence[Problem]
    noise: Tensor


@dataclass(frozen=True, slots=True)
class GrpoTurn:
    """One member's part in a step. draws: one a round, for as many rounds as it takes."""

    algorithm: GrpoConfig
    draws: Iterator[Draw]
    lr: float


class References:
    """The initial policies of those members that need theirs, as a stack of their own.

    members: the stack's members that they belong to, in the order of the references.
    """

    def __init__(self, stack: StackedDecoder, members: Sequence[int]) -> None:
        self._stack, self._members = stack, list(members)

    @torch.no_grad()
    def log_probs(self, members: int, prompts: Prompts, tokens: Tensor, temperatures: Tensor | None = None) -> Tensor:
        """Those of the completions `tokens` (N, T) of the prompts of M members, (N, T); zeros for members without a
        reference."""
        device = tokens.device
        chosen = torch.tensor(self._members, device=device)

        def rows(each: int) -> Tensor:
            return (chosen[:, None] * each + torch.arange(each, device=device)).flatten()

        completions = rows(tokens.shape[0] // members)
        some, mine = prompts.select(rows(len(prompts) // members)), tokens[completions]
        logits = completion_logits(self._stack, some.tokens, mine, some.padding)
        out = torch.zeros(tokens.shape, device=device)
        out[completions] = tempered_log_probs(logits, mine, None if temperatures is None else temperatures[chosen])
        return out


@dataclass(frozen=True, slots=True)
class Experience:
    """The groups that are learned from: K for each of M members, padded to the most that a member has.

    prompts: M x K. tokens, mask, old_log_probs: (M x K x G, T), the mask False in padding groups. advantages:
    (M x K x G,). groups: how many real ones each member has. learns: who has a token to learn from.
    """

    members: int
    prompts: Prompts
    tokens: Tensor
    mask: Tensor
    old_log_probs: Tensor
    advantages: Tensor
    groups: list[int]
    learns: list[bool]


@dataclass(frozen=True, slots=True)
class Sampled:
    """What R rounds sampled for M members of P prompts each: prompts of M x (R x P) groups, one member's after the
    other's, their completions and rewards. chosen (M, R x P): the groups that are learned from.

    A member that needed fewer rounds has copies in the others, which are not chosen. Lists have one entry a member:
    rounds: how many it took. generated, prompted: tokens of completions and prompts in those. rewarded: their rewards,
    summed.
    """

    prompts: Prompts
    rollout: Rollout
    rewards: Tensor
    chosen: Tensor
    rounds: list[int]
    generated: list[int]
    prompted: list[int]
    rewarded: list[float]


def grpo_step(
    engine: StackEngine,
    turns: Sequence[GrpoTurn],
    judge: Judge,
    references: References | None = None,
    phase: Phase = any_time,
    further_weight: float = 0.0,
) -> list[StepValues]:
    """Samples, judges and learns. `references` is needed where a member has a KL weight. `phase` is entered around the
    `rollout` and around what comes after it, to `learn`. `further_weight`: of the loss of multi-token prediction."""
    device, max_tokens = engine.device, judge.task.config.max_answer_tokens
    knobs = GrpoKnobs.of([turn.algorithm for turn in turns], device)
    if references is None and any(turn.algorithm.kl_weight for turn in turns):
        raise ValueError("a member with a kl_weight needs its initial policy: pass `references`")
    with phase("rollout"):
        sampled = sample(engine.stack, turns, knobs, judge, device)
    updates: list[list[dict[str, float]]] = [[] for _ in turns]
    with phase("learn"):
        experience = learned_from(sampled, knobs)
        if experience is not None:
            learned = experience.members, experience.prompts, experience.tokens
            reference = None if references is None else references.log_probs(*learned, knobs.temperatures)
            for _ in range(turns[0].algorithm.updates_per_rollout):
                values = update(engine, experience, knobs, turns, max_tokens, reference, further_weight)
                for member, value in enumerate(values):
                    if experience.learns[member]:
                        updates[member].append(value)
    groups = [0] * len(turns) if experience is None else experience.groups
    return _values(turns, sampled, groups, updates)


def sample(
    stack: StackedDecoder,
    turns: Sequence[GrpoTurn],
    knobs: GrpoKnobs,
    judge: Judge,
    device: torch.device,
) -> Sampled:
    """Round after round, for those members whose batch is not full and that may go on."""
    tokenizer, max_tokens = judge.tokenizer, judge.task.config.max_answer_tokens
    members, group = len(turns), turns[0].algorithm.group_size
    wanted: Tensor | None = None  # (M, 1): groups that are missing yet; None before the first round
    parts: list[tuple[list[int], Prompts, Rollout, Tensor, Tensor]] = []
    rounds, generated, prompted, rewarded = [0] * members, [0] * members, [0] * members, [0.0] * members
    pending = list(range(members))
    while pending:
        draws = [next(turns[member].draws) for member in pending]
        each = len(draws[0].problems)
        problems = [problem for draw in draws for problem in draw.problems]
        prompts = encode_prompts([problem.prompt for problem in problems], tokenizer, device)
        mine = torch.tensor(pending, device=device)
        rollout = generate(
            stack if len(pending) == members else stack.select(pending),
            prompts,
            tokenizer,
            max_tokens,
            group_size=group,
            temperature=1.0 if knobs.temperatures is None else knobs.temperatures[mine],
            noise=torch.cat([draw.noise for draw in draws]).to(device),
            members=len(pending),
        )
        buffers, penalties = (
            None if values is None else values[mine].repeat_interleave(each)[:, None].cpu()
            for values in (knobs.overlong_buffers, knobs.length_penalties)
        )
        rewards = completion_rewards(judge, problems, rollout, buffers, penalties).to(device)
        counts = rollout.mask.view(len(pending), -1).sum(dim=1).tolist()
        read = prompts.token_counts(len(pending)).tolist()
        if knobs.mask_truncated is not None:
            rollout = without_truncated(rollout, tokenizer, knobs.mask_truncated[mine].repeat_interleave(each * group))
        spread = has_spread(rewards).view(len(pending), -1)
        chosen = spread if wanted is None else first(spread, wanted[mine])  # all that a first round has are wanted
        sums = rewards.view(len(pending), -1).sum(dim=1).tolist()
        for place, member in enumerate(pending):
            rounds[member] += 1
            generated[member] += counts[place]
            rewarded[member] += sums[place]
            prompted[member] += read[place]
        parts.append((pending, prompts, rollout, rewards, chosen))
        if all(rounds[member] >= turns[member].algorithm.max_sampling_rounds for member in pending):
            break  # without asking the device
        if wanted is None:
            wanted = torch.full((members, 1), each, device=device)
        wanted[mine] -= chosen.sum(dim=1, keepdim=True)
        missing = wanted.flatten().tolist()
        pending = [m for m in pending if missing[m] and rounds[m] < turns[m].algorithm.max_sampling_rounds]
    return Sampled(*_joined(parts, members, tokenizer.pad_id), rounds, generated, prompted, rewarded)


def _joined(
    parts: Sequence[tuple[list[int], Prompts, Rollout, Tensor, Tensor]], members: int, pad_id: int
) -> tuple[Prompts, Rollout, Tensor, Tensor]:
    """All rounds, one member's after the other's; members that took no part in a round have another's groups there."""
    if len(parts) == 1:
        _, prompts, rollout, rewards, chosen = parts[0]
        return prompts, rollout, rewards, chosen
    each, device = parts[0][4].shape[1], parts[0][3].device
    starts, rows, real = 0, [], []
    for pending, *_ in parts:
        place = {member: index for index, member in enumerate(pending)}
        rows.append([starts + place.get(member, 0) * each for member in range(members)])
        real.append([member in place for member in range(members)])
        starts += len(pending) * each
    first_rows = torch.tensor(rows, device=device).T[..., None]  # (M, R, 1)
    groups = (first_rows + torch.arange(each, device=device)).flatten()
    rewards = torch.cat([part[3] for part in parts])
    size = rewards.shape[1]
    completions = (groups[:, None] * size + torch.arange(size, device=device)).flatten()
    rollout = joined_rollouts([part[2] for part in parts])
    chosen = torch.cat([part[4].flatten() for part in parts])[groups].view(members, len(parts), each)
    chosen = chosen & torch.tensor(real, device=device).T[..., None]
    return (
        joined_prompts([part[1] for part in parts], pad_id).select(groups),
        Rollout(rollout.tokens[completions], rollout.mask[completions], rollout.log_probs[completions]),
        rewards[groups],
        chosen.flatten(1),
    )


@timed_as("data")
def learned_from(sampled: Sampled, knobs: GrpoKnobs) -> Experience | None:
    """The chosen groups; None where no member has one."""
    prompts, rollout, rewards, spread = sampled.prompts, sampled.rollout, sampled.rewards, sampled.chosen
    members, group = spread.shape[0], rewards.shape[1]
    groups = spread.sum(dim=1).tolist()
    most = max(groups)
    if most == 0:
        return None
    device = rewards.device
    first = (~spread).byte().sort(dim=1, stable=True).indices[:, :most]
    kept = (first + torch.arange(members, device=device)[:, None] * spread.shape[1]).flatten()
    real = spread.flatten()[kept].repeat_interleave(group)[:, None]
    rows = (kept[:, None] * group + torch.arange(group, device=device)).flatten()
    mask = rollout.mask[rows] & real
    learns = [count > 0 for count in groups]
    if knobs.mask_truncated is not None:
        learns = mask.view(members, -1).any(dim=1).tolist()
    return Experience(
        members=members,
        prompts=prompts.select(kept),
        tokens=rollout.tokens[rows],
        mask=mask,
        old_log_probs=rollout.log_probs[rows],
        advantages=advantages_of_members(rewards[kept], knobs).flatten(),
        groups=groups,
        learns=learns,
    )


def update(
    engine: StackEngine,
    experience: Experience,
    knobs: GrpoKnobs,
    turns: Sequence[GrpoTurn],
    max_tokens: int,
    reference: Tensor | None,
    further_weight: float = 0.0,
) -> list[dict[str, float]]:
    """One optimizer step of the members that have groups; each member's `train/*` values."""
    losses, stats = _losses(engine, experience, knobs, turns, max_tokens, reference, further_weight)
    engine.backward(losses)
    engine.step([turn.lr for turn in turns], experience.learns)
    named = {"loss": losses, **stats, "grad_norm": engine.grad_norms()}
    columns = dict(zip(named, torch.stack(list(named.values())).tolist(), strict=True))
    return [
        {f"train/{name}": columns[name][member] for name in columns if name != "kl" or turn.algorithm.kl_weight}
        for member, turn in enumerate(turns)
    ]


def _losses(
    engine: StackEngine,
    experience: Experience,
    knobs: GrpoKnobs,
    turns: Sequence[GrpoTurn],
    max_tokens: int,
    reference: Tensor | None,
    further_weight: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Each member's loss, (M,), and its statistics by name."""
    prompts, tokens = experience.prompts, experience.tokens
    further: list[Tensor] = []
    if further_weight:
        logits, *further = further_logits(engine, *_without_padding_groups(experience), prompts.padding)
    else:
        logits = completion_logits(engine, prompts.tokens, tokens, prompts.padding, experience.mask)
    losses, stats = grpo_losses(
        tempered_log_probs(logits, tokens, knobs.temperatures),
        experience.old_log_probs,
        experience.advantages,
        experience.mask,
        knobs,
        max_tokens,
        reference,
        torch.tensor(experience.groups, device=engine.device) * turns[0].algorithm.group_size,
    )
    if further:
        token_counts = experience.mask.view(experience.members, -1).sum(dim=1).clamp(min=1)
        extra = further_losses(further, tokens, experience.mask, token_counts)
        losses = losses + further_weight * extra
        stats["further_loss"] = extra.detach()
    return losses, stats


def _without_padding_groups(experience: Experience) -> tuple[Tensor, Tensor]:
    """Tokens of the prompts and of the completions, PAD in groups that are there for another member's sake: no expert
    is balanced by them."""
    tokens, group = experience.prompts.tokens, experience.tokens.shape[0] // len(experience.prompts)
    counts = torch.tensor(experience.groups, device=tokens.device)[:, None]
    real = (torch.arange(len(tokens) // experience.members, device=tokens.device) < counts).flatten()[:, None]
    completions = experience.tokens.masked_fill(~real.repeat_interleave(group, dim=0), PAD_ID)
    return tokens.masked_fill(~real, PAD_ID), completions


def _values(
    turns: Sequence[GrpoTurn], sampled: Sampled, groups: Sequence[int], updates: list[list[dict[str, float]]]
) -> list[StepValues]:
    values = []
    for member, turn in enumerate(turns):
        rounds = sampled.rounds[member]
        prompts = rounds * turn.algorithm.prompts_per_step
        completions = prompts * turn.algorithm.group_size
        step = {"train/lr": turn.lr, "train/groups_skipped": float(prompts - groups[member])}
        if turn.algorithm.max_sampling_rounds > 1:
            step["train/sampling_rounds"] = float(rounds)
        averages = {
            "train/reward": sampled.rewarded[member] / completions,
            "train/tokens_per_answer": sampled.generated[member] / completions,
        }
        tokens = sampled.generated[member] + sampled.prompted[member]
        values.append(StepValues(updates[member], tokens, step, averages, prompts, rounds))
    return values
