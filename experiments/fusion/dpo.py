"""One step of direct preference optimization of every member of a stack; the maths of `experiments.stages.dpo`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from experiments.batches import encode_answers, encode_prompts
from experiments.fusion.engine import StackEngine
from experiments.fusion.grpo import References
from experiments.fusion.losses import dpo_losses
from experiments.fusion.values import Phase, StepValues, any_time
from experiments.losses import sequence_log_probs, token_log_probs
from experiments.models.shared_prompt import completion_logits
from experiments.tasks import Tokenizer
from orchestrator.schema.training import DpoConfig

if TYPE_CHECKING:  # what draws samples needs more than torch
    from experiments.samples import Pair


def dpo_step(
    engine: StackEngine,
    batches: Sequence[Sequence["Pair"]],
    algorithms: Sequence[DpoConfig],
    lrs: Sequence[float],
    tokenizer: Tokenizer,
    references: References,
    phase: Phase = any_time,
) -> list[StepValues]:
    """Trains each member on its own pairs, all of one number, at its own rate; `references` has the initial policy of
    each. `phase` is entered around all of it, to `learn`."""
    device, members = engine.device, len(batches)
    with phase("learn"):
        prompts = encode_prompts([pair.prompt for batch in batches for pair in batch], tokenizer, device)
        # A pair's answers are neighbours, so that its prompt is computed once.
        texts = [[text for pair in batch for text in (pair.chosen, pair.rejected)] for batch in batches]
        answers = encode_answers([text for of_member in texts for text in of_member], tokenizer, device)
        before = references.log_probs(members, prompts, answers.tokens)
        ours = token_log_probs(
            completion_logits(engine, prompts.tokens, answers.tokens, prompts.padding, answers.mask), answers.tokens
        )
        losses, stats = dpo_losses(
            sequence_log_probs(ours, answers.mask),
            sequence_log_probs(before, answers.mask),
            torch.tensor([algorithm.beta for algorithm in algorithms], device=device),
            torch.tensor([algorithm.label_smoothing for algorithm in algorithms], device=device),
        )
        engine.backward(losses)
        engine.step(lrs)
        named = {"loss": losses.detach(), **stats, "grad_norm": engine.grad_norms()}
        read = torch.stack(list(named.values())).T.tolist()
    return [
        StepValues(
            updates=[{"train/lr": lr} | {f"train/{name}": value for name, value in zip(named, of_member, strict=True)}],
            tokens=sum(tokenizer.prompt_length(pair.prompt) for pair in batch)
            + sum(map(tokenizer.answer_length, written)),
        )
        for of_member, lr, batch, written in zip(read, lrs, batches, texts, strict=True)
    ]
