"""Group-relative policy optimization on the prompts of the RL split (arXiv:2402.03300).

Each step samples a group of completions for each of `prompts_per_step` prompts, scores them with the task's verifier,
and takes `updates_per_rollout` clipped updates on the groups whose rewards differ. A group without spread has no
advantage to learn from and leaves the batch. In up to `max_sampling_rounds` rounds further prompts take the place of
such groups (DAPO's dynamic sampling, arXiv:2503.14476 eq. 11); the batch is then normalised by what there is of it. A
step in which no group is left changes no weights. DAPO, GSPO and RLOO are this stage with other options.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from experiments.batches import Prompts, encode_prompts, micro_batches, part
from experiments.building import Model, initial_model
from experiments.channel import Channel
from experiments.curriculum import ProblemOrder, problem_order
from experiments.dynamic_sampling import first_of_gang, has_spread, joined_prompts, joined_rollouts
from experiments.engine import Engine
from experiments.gang import sum_over_processes
from experiments.losses import further_loss, group_advantages, grpo_loss, token_log_probs
from experiments.models.multi_token import further_logits, further_weight
from experiments.models.shared_prompt import completion_logits
from experiments.parts import timed_as
from experiments.rewards import completion_rewards, without_truncated
from experiments.rollout import Rollout, sampling_noise
from experiments.rollout.engine import RolloutEngine, open_rollouts
from experiments.stages.session import Session, open_session
from experiments.tasks import Problem
from orchestrator.schema import Assignment, Outcome
from orchestrator.schema.training import GrpoConfig, stage_config


@dataclass(frozen=True, slots=True)
class Round:
    """What one round sampled: P prompts, their P x G completions and rewards (P, G). chosen (P,): the groups that are
    learned from. generated, prompted: tokens of completions and of prompts."""

    prompts: Prompts
    rollout: Rollout
    rewards: Tensor
    chosen: Tensor
    generated: int
    prompted: int


@dataclass(frozen=True, slots=True)
class Experience:
    """Groups that are learned from: K prompts, (K x G, T) completions with their mask and old log-probabilities.

    advantages (K x G,). reference (K x G, T): log-probabilities under the initial policy where there is a KL penalty.
    token_count, sequence_count: of the global batch. A process of a gang that kept no group of its own holds one with
    an empty mask, for the sake of the collectives.
    """

    prompts: Prompts
    tokens: Tensor
    mask: Tensor
    old_log_probs: Tensor
    advantages: Tensor
    reference: Tensor | None
    token_count: int
    sequence_count: int


def is_done(session: Session) -> bool:
    """Whether the stage ends at this step boundary."""
    return session.progress.step >= session.config.algorithm.max_steps


def run(assignment: Assignment, channel: Channel) -> Outcome:
    """Runs or resumes the stage; raises what `open_session` does."""
    algorithm = cast(GrpoConfig, stage_config(assignment.stage.config).algorithm)
    with open_session(assignment, channel, algorithm.prompts_per_step) as (session, engine):
        order = problem_order(session.task, "rl", session.config.seed)
        kept = algorithm.kl_weight != 0.0
        reference = initial_model(session.config, assignment.parent_dir, session.device) if kept else None
        max_tokens = session.task.config.max_answer_tokens
        rollouts = open_rollouts(session.config, max_tokens)
        further = further_weight(session.config.model, supervised=False)

        while True:
            session.evaluate_if_due()
            if is_done(session):
                return session.finish()
            if session.stop_requested():
                return session.pause()

            with session.phase("rollout"):
                rounds = sampled_rounds(session, engine, rollouts, order)
            with session.phase("learn"), engine.unparked(assignment.parks):
                experience = learned_from(rounds, algorithm, reference, session.tokenizer.pad_id)
                lr = session.learning_rate()
                for _ in range(algorithm.updates_per_rollout if experience.token_count else 0):
                    session.record(update(engine, experience, algorithm, max_tokens, lr, further))

            session.record({"train/lr": lr})
            record_rounds(session, rounds, experience.sequence_count // algorithm.group_size)
            session.complete_step(tokens=sum(this.generated + this.prompted for this in rounds))


def sampled_rounds(
    session: Session, engine: Engine, rollouts: RolloutEngine, order: ProblemOrder[Problem]
) -> list[Round]:
    """A step's rounds: one, and further ones while fewer groups than `prompts_per_step` have spread. Collective."""
    algorithm = cast(GrpoConfig, session.config.algorithm)
    count = wanted = algorithm.prompts_per_step
    mine = part(count, session.rank, session.world_size)
    rounds: list[Round] = []
    while wanted and len(rounds) < algorithm.max_sampling_rounds:
        if rounds:
            session.progress.position += count
        problems = order[session.next_items()][mine]
        prompts, rollout = _completions(session, engine, rollouts, problems)
        rewards = completion_rewards(
            session.judge,
            problems,
            rollout,
            algorithm.overlong_buffer or None,
            algorithm.length_penalty or None,
        ).to(session.device)
        generated = int(rollout.mask.sum())
        if algorithm.mask_truncated:
            rollout = without_truncated(rollout, session.tokenizer)
        chosen, found = first_of_gang(has_spread(rewards), mine, count, wanted)
        wanted -= found
        prompted = int(prompts.token_counts(1))
        rounds.append(Round(prompts, rollout, rewards, chosen, generated, prompted))
    return rounds


def _completions(
    session: Session, engine: Engine, rollouts: RolloutEngine, problems: Sequence[Problem]
) -> tuple[Prompts, Rollout]:
    """A group for each of this process's problems, of noise that is drawn for the whole gang."""
    algorithm = cast(GrpoConfig, session.config.algorithm)
    count, group, max_tokens = algorithm.prompts_per_step, algorithm.group_size, session.task.config.max_answer_tokens
    mine = part(count, session.rank, session.world_size)
    prompts = encode_prompts([problem.prompt for problem in problems], session.tokenizer, session.device)
    noise = sampling_noise(count * group, max_tokens, session.sampler)
    rollout = rollouts.sample(
        engine.decoder(),
        prompts,
        session.tokenizer,
        max_tokens,
        group_size=group,
        temperature=algorithm.temperature,
        noise=noise[mine.start * group : mine.stop * group].to(session.device),
    )
    return prompts, rollout


def record_rounds(session: Session, rounds: Sequence[Round], learned: int) -> None:
    """What a step's rounds sampled; `learned`: how many groups of the gang's were learned from."""
    algorithm = cast(GrpoConfig, session.config.algorithm)
    session.record({"train/groups_skipped": len(rounds) * algorithm.prompts_per_step - learned})
    if algorithm.max_sampling_rounds > 1:
        session.record({"train/sampling_rounds": len(rounds)})
    for this in rounds:
        per_answer = this.generated / this.rewards.numel()
        averages = {"train/reward": float(this.rewards.mean()), "train/tokens_per_answer": per_answer}
        session.record(averages, weight=len(this.rewards))


@timed_as("data")
def learned_from(rounds: Sequence[Round], algorithm: GrpoConfig, reference: Model | None, pad_id: int) -> Experience:
    """The chosen groups of a step's rounds, and the counts over the gang that their loss is normalised by."""
    prompts = joined_prompts([this.prompts for this in rounds], pad_id)
    rollout = joined_rollouts([this.rollout for this in rounds])
    rewards = torch.cat([this.rewards for this in rounds])
    group = rewards.shape[1]
    kept = torch.cat([this.chosen for this in rounds]).nonzero().squeeze(1)
    empty = len(kept) == 0
    if empty:
        kept = torch.zeros(1, dtype=torch.long, device=rewards.device)
    rows = (kept[:, None] * group + torch.arange(group, device=rewards.device)).flatten()
    some, tokens, mask = prompts.select(kept), rollout.tokens[rows], rollout.mask[rows]
    if empty:
        mask = torch.zeros_like(mask)
    counts = sum_over_processes(torch.stack((mask.sum(), torch.tensor(0 if empty else len(rows), device=mask.device))))
    token_count, sequence_count = counts.tolist()
    reference_log_probs = None
    if reference is not None:
        with torch.no_grad():
            logits = completion_logits(reference, some.tokens, tokens, some.padding)
            reference_log_probs = token_log_probs(logits, tokens, algorithm.temperature)
    return Experience(
        prompts=some,
        tokens=tokens,
        mask=mask,
        old_log_probs=rollout.log_probs[rows],
        advantages=group_advantages(rewards[kept], algorithm.advantage_scale, algorithm.baseline).flatten(),
        reference=reference_log_probs,
        token_count=token_count,
        sequence_count=sequence_count,
    )


def update(
    engine: Engine,
    experience: Experience,
    algorithm: GrpoConfig,
    max_tokens: int,
    lr: float,
    further_weight: float = 0.0,
) -> dict[str, Tensor | float]:
    """One optimizer step on all of `experience`, in micro-batches of whole groups; the step's `train/*` values.
    `further_weight`: of the loss of multi-token prediction on the sampled answers."""
    totals: dict[str, Tensor | float] = {}
    for groups, real in micro_batches(len(experience.prompts), engine.accumulation):
        loss, values = _micro_loss(engine, experience, groups, real, algorithm, max_tokens, further_weight)
        engine.backward(loss)
        engine.step(lr)
        for name, value in values.items():
            totals[f"train/{name}"] = totals.get(f"train/{name}", 0.0) + value
    totals["train/grad_norm"] = engine.grad_norm()
    return totals


def _micro_loss(
    engine: Engine,
    experience: Experience,
    groups: slice,
    real: bool,
    algorithm: GrpoConfig,
    max_tokens: int,
    further_weight: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of some groups, and their share of the step's values: these add up to the means of the global batch,
    over micro-batches in `update` and over the gang in `Session.record`."""
    rows = slice(groups.start * algorithm.group_size, groups.stop * algorithm.group_size)
    prompts, tokens, mask = experience.prompts.select(groups), experience.tokens[rows], experience.mask[rows] & real
    further: list[Tensor] = []
    if further_weight:
        logits, *further = further_logits(engine, prompts.tokens, tokens, prompts.padding)
    else:
        logits = completion_logits(engine, prompts.tokens, tokens, prompts.padding, mask)
    loss, stats = grpo_loss(
        token_log_probs(logits, tokens, algorithm.temperature),
        experience.old_log_probs[rows],
        experience.advantages[rows],
        mask,
        clip_low=algorithm.clip_low,
        clip_high=algorithm.clip_high,
        aggregation=algorithm.aggregation,
        max_answer_tokens=max_tokens,
        token_count=experience.token_count,
        sequence_count=experience.sequence_count,
        reference_log_probs=None if experience.reference is None else experience.reference[rows],
        kl_weight=algorithm.kl_weight,
        importance_level=algorithm.importance_level,
    )
    share = engine.world_size * mask.sum() / experience.token_count
    values: dict[str, Tensor] = {name: stats[name] * share for name in ("clip_fraction", "kl") if name in stats}
    if further:
        extra = further_loss(further, tokens, mask, experience.token_count)
        loss = loss + further_weight * extra
        values["further_loss"] = extra.detach() * engine.world_size
    return loss, {**values, "loss": loss.detach() * engine.world_size}
