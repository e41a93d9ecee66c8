"""One supervised step of every member of a stack; the maths of `experiments.stages.sft`."""

from collections.abc import Sequence

import torch

from experiments.batches import encode_answers, encode_prompts
from experiments.fusion.engine import StackEngine
from experiments.fusion.losses import sft_losses
from experiments.fusion.values import Phase, StepValues, any_time
from experiments.models.shared_prompt import completion_logits
from experiments.tasks import Problem, Tokenizer


def sft_step(
    engine: StackEngine,
    batches: Sequence[Sequence[Problem]],
    lrs: Sequence[float],
    tokenizer: Tokenizer,
    phase: Phase = any_time,
) -> list[StepValues]:
    """Trains each member on its own batch, all of one size, at its own rate; members may be at any step.

    Sequences are padded to the longest of all members' batches, which changes a member's numbers by rounding at most.
    `phase` is entered around all of it, to `learn`.
    """
    with phase("learn"):
        examples = [example for batch in batches for example in batch]
        prompts = encode_prompts([example.prompt for example in examples], tokenizer, engine.device)
        answers = encode_answers([example.answer for example in examples], tokenizer, engine.device)
        counts = [sum(tokenizer.answer_length(example.answer) for example in batch) for batch in batches]
        token_counts = torch.tensor(counts, device=engine.device)
        logits = completion_logits(engine, prompts.tokens, answers.tokens, prompts.padding, answers.mask)
        losses = sft_losses(logits, answers.tokens, answers.mask, token_counts)
        engine.backward(losses)
        engine.step(lrs)
        read = torch.stack((losses.detach(), engine.grad_norms())).tolist()
    return [
        StepValues(
            updates=[{"train/loss": loss, "train/lr": lr, "train/grad_norm": norm}],
            tokens=count + sum(tokenizer.prompt_length(example.prompt) for example in batch),
        )
        for loss, norm, lr, batch, count in zip(*read, lrs, batches, counts, strict=True)
    ]
