"""One supervised step of every member of a stack; the maths of `experiments.stages.sft`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.batches import Answers, Prompts, encode_answers, encode_prompts
from experiments.fusion.engine import StackEngine
from experiments.fusion.losses import further_losses, sft_losses
from experiments.fusion.values import Phase, StepValues, any_time
from experiments.models.multi_token import further_logits
from experiments.models.shared_prompt import completion_logits
from experiments.tasks import Problem, Tokenizer


def sft_step(
    engine: StackEngine,
    batches: Sequence[Sequence[Problem]],
    lrs: Sequence[float],
    tokenizer: Tokenizer,
    phase: Phase = any_time,
    further_weight: float = 0.0,
) -> list[StepValues]:
    """Trains each member on its own batch, all of one size, at its own rate; members may be at any step.

    Sequences are padded to the longest of all members' batches, which changes a member's numbers by rounding at most.
    `phase` is entered around all of it, to `learn`. `further_weight`: of the loss of multi-token prediction.
    """
    with phase("learn"):
        examples = [example for batch in batches for example in batch]
        prompts = encode_prompts([example.prompt for example in examples], tokenizer, engine.device)
        answers = encode_answers([example.answer for example in examples], tokenizer, engine.device)
        token_counts = answers.mask.view(len(batches), -1).sum(dim=1)
        losses, named = _losses(engine, prompts, answers, token_counts, further_weight)
        engine.backward(losses)
        engine.step(lrs)
        named |= {"loss": losses, "grad_norm": engine.grad_norms()}
        read = torch.stack(list(named.values())).T.tolist()
        tokens = (token_counts + prompts.token_counts(len(batches))).tolist()
    return [
        StepValues(
            updates=[{"train/lr": lr} | {f"train/{name}": value for name, value in zip(named, of_member, strict=True)}],
            tokens=count,
        )
        for of_member, lr, count in zip(read, lrs, tokens, strict=True)
    ]


def _losses(
    engine: StackEngine, prompts: Prompts, answers: Answers, token_counts: Tensor, further_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Each member's loss, (M,), and by its name what of it is the loss of the tokens further on."""
    if not further_weight:
        logits = completion_logits(engine, prompts.tokens, answers.tokens, prompts.padding, answers.mask)
        return sft_losses(logits, answers.tokens, answers.mask, token_counts), {}
    logits, *further = further_logits(engine, prompts.tokens, answers.tokens, prompts.padding)
    extra = further_losses(further, answers.tokens, answers.mask, token_counts)
    losses = sft_losses(logits, answers.tokens, answers.mask, token_counts) + further_weight * extra
    return losses, {"further_loss": extra.detach()}
