"""Supervised fine-tuning: next-token loss on the answers of the supervised split, prompts masked.

Epochs in a seeded order, `batch_size` examples per step over all processes, AdamW through DeepSpeed. The stage ends
after `max_steps`, or at the first evaluation in which dev accuracy reaches `stop_at_accuracy`.
"""

from typing import cast

from torch import Tensor

from experiments.batches import Prompts, encode_answers, encode_prompts, micro_batches, part
from experiments.channel import Channel
from experiments.curriculum import ProblemOrder, problem_order
from experiments.engine import Engine
from experiments.losses import further_loss, sft_loss
from experiments.models.multi_token import further_logits, further_weight
from experiments.models.shared_prompt import completion_logits
from experiments.stages.session import Session, open_session
from experiments.tasks import Problem
from orchestrator.schema import Assignment, Outcome
from orchestrator.schema.training import SftConfig, stage_config


def is_done(session: Session) -> bool:
    """Whether the stage ends at this step boundary, its evaluation having been made if it is due."""
    algorithm, progress = cast(SftConfig, session.config.algorithm), session.progress
    measured = session.knows_dev_accuracy and not session.just_warm
    reached = measured and progress.dev_accuracy >= algorithm.stop_at_accuracy
    return reached or progress.step >= algorithm.max_steps


def run(assignment: Assignment, channel: Channel) -> Outcome:
    """Runs or resumes the stage; raises what `open_session` does."""
    algorithm = cast(SftConfig, stage_config(assignment.stage.config).algorithm)
    with open_session(assignment, channel, algorithm.batch_size) as (session, engine):
        return learn(session, engine, problem_order(session.task, "supervised", session.config.seed))


def learn(session: Session, engine: Engine, order: ProblemOrder[Problem]) -> Outcome:
    """The steps of a stage that learns the answers of the problems of `order`, and its end."""
    algorithm = cast(SftConfig, session.config.algorithm)
    tokenizer, device = session.tokenizer, session.device
    mine = part(algorithm.batch_size, session.rank, session.world_size)

    while True:
        session.evaluate_if_due()
        if is_done(session):
            return session.finish()
        if session.stop_requested():
            return session.pause()

        with session.phase("learn"), engine.unparked(session.assignment.parks):
            batch = order[session.next_items()]
            written = [tokenizer.answer_length(example.answer) for example in batch]
            token_count = sum(written)  # of all processes
            prompts = encode_prompts([example.prompt for example in batch[mine]], tokenizer, device)
            answers = encode_answers([example.answer for example in batch[mine]], tokenizer, device)
            loss = 0.0
            lr = session.learning_rate()
            for rows, real in micro_batches(len(prompts), engine.accumulation):
                some, tokens, mask = prompts.select(rows), answers.tokens[rows], answers.mask[rows] & real
                micro_loss = answers_loss(session, engine, some, tokens, mask, token_count)
                engine.backward(micro_loss)
                engine.step(lr)
                loss += micro_loss.item()

        # Each process has its share of the loss, to be summed; `record` averages over processes.
        loss *= session.world_size
        session.record({"train/loss": loss, "train/lr": lr, "train/grad_norm": engine.grad_norm()})
        session.complete_step(tokens=int(prompts.token_counts(1)) + sum(written[mine]))


def answers_loss(
    session: Session, engine: Engine, prompts: Prompts, tokens: Tensor, mask: Tensor, token_count: int
) -> Tensor:
    """The loss of some answers (N, T), with that of the tokens further on where the model predicts them (recorded as
    `train/further_loss`); see `sft_loss` and `further_loss`."""
    weight = further_weight(session.config.model, supervised=True)
    if not weight:
        logits = completion_logits(engine, prompts.tokens, tokens, prompts.padding, mask)
        return sft_loss(logits, tokens, mask, token_count)
    first, *further = further_logits(engine, prompts.tokens, tokens, prompts.padding)
    extra = further_loss(further, tokens, mask, token_count)
    session.record({"train/further_loss": extra.item() * session.world_size * engine.accumulation})
    return sft_loss(first, tokens, mask, token_count) + weight * extra
