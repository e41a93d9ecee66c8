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
    answers = _Answers(prompts, tokenizer, max_tokens, group_size, temperature, noise)
    batch = _Batch(weights, prompts, answers, max_rows)
    while True:
        if batch.let_in():
            continue  # some may have ended with their first token
        if not batch.in_use:
            return Rollout(answers.ids, answers.mask, answers.log_probs)
        batch.close_up()
        batch.step()


class _Answers:
    """The tokens of all completions (P x G, T) so far."""

    def __init__(
        self,
        prompts: Prompts,
        tokenizer: Tokenizer,
        max_tokens: int,
        group: int,
        temperature: float,
        noise: Tensor | None,
    ) -> None:
        shape, device = (len(prompts) * group, max_tokens), prompts.tokens.device
        self.max_tokens, self.group = max_tokens, group
        self.ids = torch.full(shape, tokenizer.pad_id, device=device)
        self.log_probs = torch.zeros(shape, device=device)
        self.mask = torch.zeros(shape, dtype=torch.bool, device=device)
        self._eos_id, self._temperature, self._noise = tokenizer.eos_id, temperature, noise

    def take(self, logits: Tensor, whose: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Chosen tokens of the completions `whose` (N, width) at `steps` (N, 1), and which of them go on."""
        own = None if self._noise is None else self._noise[whose, steps]
        chosen, log_probs = choose(logits[:, None], whose.shape[1], self._temperature, own)
        self.ids[whose, steps], self.log_probs[whose, steps], self.mask[whose, steps] = chosen, log_probs, True
        return chosen, (chosen != self._eos_id) & (steps + 1 < self.max_tokens)


class _Batch:
    """Who decodes now. By row: the completion, its last token, and whether it goes on (`active`)."""

    def __init__(self, weights: PlainWeights, prompts: Prompts, answers: _Answers, max_rows: int) -> None:
        count, group, device = len(prompts), answers.group, prompts.tokens.device
        groups = min(count, max(1, max_rows // group)) if max_rows else count
        rows = groups * group
        # The last completions of a group keep its prompt, so that there are more prompts than whole groups.
        places = min(count, 2 * groups)
        self._prompts, self._answers = prompts, answers
        self._padding = (
            torch.zeros(count, dtype=torch.long, device=device) if prompts.padding is None else prompts.padding
        )
        self._slots = Slots(weights, places, rows, group, prompts.tokens.shape[1], answers.max_tokens)
        self._completion = torch.zeros(rows, dtype=torch.long, device=device)
        self._active = torch.zeros(rows, dtype=torch.bool, device=device)
        self._last = torch.zeros(rows, dtype=torch.long, device=device)
        self._entered = 0
        self.in_use = 0

    def let_in(self) -> bool:
        """Prompts that wait enter as far as there is room, and their completions get their first token. Whether any
        did; counts the rows that are in use if not."""
        count, group, device = len(self._prompts), self._answers.group, self._active.device
        free = (~self._active).nonzero().squeeze(1)
        self.in_use = len(self._active) - len(free)
        room = min(len(free) // group, count - self._entered)
        at = self._unused_places()[:room] if room else free[:0]
        coming = len(at)
        if not coming:
            return False
        into = free[: coming * group].view(coming, group)
        prompt = torch.arange(self._entered, self._entered + coming, device=device)
        self._entered += coming
        logits = self._slots.enter(at, into, self._prompts.tokens[prompt], self._padding[prompt])
        self._completion[into] = prompt[:, None] * group + torch.arange(group, device=device)
        first = torch.zeros((coming, 1), dtype=torch.long, device=device)
        self._last[into], self._active[into] = self._answers.take(logits, self._completion[into], first)
        return True

    def close_up(self) -> None:
        """Gives up the rows that are free, and places that nobody is of, once nobody waits for them."""
        if self._entered < len(self._prompts) or self.in_use > _KEPT * len(self._active):
            return
        slots, kept = self._slots, self._active.nonzero().squeeze(1)
        slots.keep_rows(kept)
        self._completion, self._active, self._last = self._completion[kept], self._active[kept], self._last[kept]
        used = (slots.at // slots.group).unique()
        if 2 * len(used) <= len(slots.padding):
            slots.keep_places(used)

    def step(self) -> None:
        """The next token of every active row."""
        logits = self._slots.step(self._last)
        now = self._active.nonzero().squeeze(1)
        steps = (self._slots.clock - self._slots.entered)[now, None]
        chosen, goes_on = self._answers.take(logits[now], self._completion[now, None], steps)
        self._last[now], self._active[now] = chosen[:, 0], goes_on[:, 0]

    def _unused_places(self) -> Tensor:
        """Places that no active row is of."""
        used = torch.zeros(len(self._slots.padding), dtype=torch.bool, device=self._active.device)
        used[self._slots.at[self._active] // self._slots.group] = True
        return (~used).nonzero().squeeze(1)
