"""Continuous batching: a completion that has ended leaves, and a prompt that waits enters with its group.

The prompt is computed once for its group. Who shares the batch changes a result by rounding only: a completion's noise
is its own.
"""

import torch
from torch import Tensor

from experiments.batches import Prompts
from experiments.parts import timed_as
from experiments.rollout.batch import Rollout, choose
from experiments.rollout.slots import Slots
from experiments.rollout.weights import PlainWeights
from experiments.tasks.tokenizer import Tokenizer

_KEPT = 0.9
"""Rows move together once this part of them, or less, is in use: moving costs as much as some steps."""


@timed_as("decode")
@torch.no_grad()
def decode(
    weights: PlainWeights,
    prompts: Prompts,
    tokenizer: Tokenizer,
    max_tokens: int,
    *,
    group_size: int = 1,
    temperature: float = 1.0,
    noise: Tensor | None = None,
    max_rows: int = 0,
) -> Rollout:
    """What `generate` returns, to rounding, with at most `max_rows` completions in the batch at a time (0: any number;
    never fewer than a group)."""
    count, group, device = len(prompts), group_size, prompts.tokens.device
    shape = (count * group, max_tokens)
    ids = torch.full(shape, tokenizer.pad_id, device=device)
    log_probs, mask = torch.zeros(shape, device=device), torch.zeros(shape, dtype=torch.bool, device=device)
    padding = torch.zeros(count, dtype=torch.long, device=device) if prompts.padding is None else prompts.padding
    groups = min(count, max(1, max_rows // group)) if max_rows else count
    rows = groups * group
    # The last completions of a group keep its prompt, so that there are more prompts than whole groups.
    places = min(count, 2 * groups)
    slots = Slots(weights, places, rows, group, prompts.tokens.shape[1], max_tokens)
    completion = torch.zeros(rows, dtype=torch.long, device=device)
    active = torch.zeros(rows, dtype=torch.bool, device=device)
    last = torch.zeros(rows, dtype=torch.long, device=device)
    numbers = torch.arange(group, device=device)
    entered = 0

    def take(logits: Tensor, whose: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Chosen tokens of the completions `whose` (N, width) at `steps` (N, 1), and which of them go on."""
        own = None if noise is None else noise[whose, steps]
        chosen, chosen_log_probs = choose(logits[:, None], whose.shape[1], temperature, own)
        ids[whose, steps], log_probs[whose, steps], mask[whose, steps] = chosen, chosen_log_probs, True
        return chosen, (chosen != tokenizer.eos_id) & (steps + 1 < max_tokens)

    while True:
        free = (~active).nonzero().squeeze(1)
        room = min(len(free) // group, count - entered)
        at = _unused(slots, active)[:room] if room else free[:0]
        if coming := len(at):
            into = free[: coming * group].view(coming, group)
            prompt = torch.arange(entered, entered + coming, device=device)
            entered += coming
            logits = slots.enter(at, into, prompts.tokens[prompt], padding[prompt])
            completion[into] = prompt[:, None] * group + numbers
            first = torch.zeros((coming, 1), dtype=torch.long, device=device)
            last[into], active[into] = take(logits, completion[into], first)
            continue  # some may have ended with their first token
        in_use = len(active) - len(free)
        if in_use == 0:
            break
        if entered == count and in_use <= _KEPT * len(active):
            kept = active.nonzero().squeeze(1)
            slots.keep_rows(kept)
            completion, active, last = completion[kept], active[kept], last[kept]
            used = (slots.at // group).unique()
            if 2 * len(used) <= len(slots.padding):
                slots.keep_places(used)
        logits = slots.step(last)
        now = active.nonzero().squeeze(1)
        steps = (slots.clock - slots.entered)[now, None]
        chosen, goes_on = take(logits[now], completion[now, None], steps)
        last[now], active[now] = chosen[:, 0], goes_on[:, 0]
    return Rollout(ids, mask, log_probs)


def _unused(slots: Slots, active: Tensor) -> Tensor:
    """Places that no active row is of."""
    used = torch.zeros(len(slots.padding), dtype=torch.bool, device=active.device)
    used[slots.at[active] // slots.group] = True
    return (~used).nonzero().squeeze(1)
