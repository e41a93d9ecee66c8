"""Direct preference optimization on a policy's own answers (arXiv:2305.18290).

The policy is the output of the stage before, and so is the reference. It answers the RL prompts; where some of a
prompt's answers are right and some wrong, a right one is preferred to a wrong one.
"""

from typing import cast

import torch
from torch import Tensor

from experiments.batches import encode_answers, encode_prompts, micro_batches, part
from experiments.building import initial_model
from experiments.channel import Channel
from experiments.curriculum import ProblemOrder
from experiments.losses import dpo_loss, sequence_log_probs, token_log_probs
from experiments.models.shared_prompt import completion_logits
from experiments.samples import Pair, preference_pairs
from experiments.stages.sampling import Drawn, samples_of_parent
from experiments.stages.session import Session, open_session
from orchestrator.schema import Assignment, Outcome
from orchestrator.schema.training import DpoConfig, stage_config


def is_done(session: Session) -> bool:
    """Whether the stage ends at this step boundary."""
    return session.progress.step >= session.config.algorithm.max_steps


def run(assignment: Assignment, channel: Channel) -> Outcome:
    """Runs or resumes the stage; raises what `open_session` and `pairs_of` do."""
    algorithm = cast(DpoConfig, stage_config(assignment.stage.config).algorithm)
    with open_session(assignment, channel, algorithm.batch_size) as (session, engine):
        tokenizer, device = session.tokenizer, session.device
        drawn = pairs_of(session, assignment.parent_dir)
        order = ProblemOrder([], drawn.items, session.config.seed)
        mine = part(algorithm.batch_size, session.rank, session.world_size)
        reference = initial_model(session.config, assignment.parent_dir, device)

        while True:
            session.evaluate_if_due()
            if is_done(session):
                return drawn.handed_in(session, session.finish())
            if session.stop_requested():
                return drawn.handed_in(session, session.pause())

            with session.phase("learn"), engine.unparked(assignment.parks):
                batch = order[session.next_items()][mine]
                prompts = encode_prompts([pair.prompt for pair in batch], tokenizer, device)
                # A pair's answers are neighbours, so that its prompt is computed once.
                texts = [text for pair in batch for text in (pair.chosen, pair.rejected)]
                answers = encode_answers(texts, tokenizer, device)
                totals: dict[str, Tensor] = {}
                lr = session.learning_rate()
                for rows, real in micro_batches(len(prompts), engine.accumulation):
                    some = prompts.select(rows)
                    both = slice(2 * rows.start, 2 * rows.stop)
                    tokens, mask = answers.tokens[both], answers.mask[both]
                    with torch.no_grad():
                        logits = completion_logits(reference, some.tokens, tokens, some.padding)
                        references = sequence_log_probs(token_log_probs(logits, tokens), mask)
                    logits = completion_logits(engine, some.tokens, tokens, some.padding, mask & real)
                    ours = sequence_log_probs(token_log_probs(logits, tokens), mask)
                    loss, stats = dpo_loss(
                        ours[::2],
                        ours[1::2],
                        references[::2],
                        references[1::2],
                        beta=algorithm.beta,
                        label_smoothing=algorithm.label_smoothing,
                        pair_count=algorithm.batch_size,
                    )
                    loss = loss * real
                    engine.backward(loss)
                    engine.step(lr)
                    # Shares of the global batch: they add up to its means here, and over the gang in `record`.
                    share = session.world_size * real * len(some) / algorithm.batch_size
                    values = {"loss": loss.detach() * session.world_size}
                    values |= {name: value * share for name, value in stats.items()}
                    for name, value in values.items():
                        totals[f"train/{name}"] = totals.get(f"train/{name}", torch.zeros((), device=device)) + value

            session.record({**totals, "train/lr": lr, "train/grad_norm": engine.grad_norm()})
            session.complete_step(tokens=int(prompts.token_counts(1)) + int(answers.mask.sum()))


def pairs_of(session: Session, policy: str) -> Drawn[Pair]:
    """What the stage learns of the `policy` (a folder), see `samples_of_parent`. Raises ValueError where no prompt has
    a right and a wrong answer of it. Collective."""
    sampling = cast(DpoConfig, session.config.algorithm).sampling
    samples = samples_of_parent(session, policy, sampling)
    pairs = preference_pairs(samples, sampling.keep)
    if not pairs:
        raise ValueError(
            f"algorithm.sampling: no prompt of {len(samples)} different answers has both a right and a wrong one; "
            f"raise per_prompt ({sampling.per_prompt}) or temperature ({sampling.temperature})"
        )
    return Drawn(samples, pairs, "pairs")
