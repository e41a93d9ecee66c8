"""Greedy decoding that a model drafts for itself: its modules for further tokens guess, the model checks the guesses.

A round runs the model once, on its last token and D guesses after it. As many guesses as are what the model says itself
are taken, and one token more. So the tokens are those of greedy decoding, whatever is guessed; only how many rounds
it takes depends on the guesses (the modules of arXiv:2412.19437, section 5.4.3, and the check of arXiv:2211.17192 at
temperature 0).

Answers of a batch are accepted at their own pace. Rows of guesses that were not taken stay in the cache, and nobody
looks at them.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.batches import Prompts, encode_prompts
from experiments.models.attention import KVCache
from experiments.models.multi_token import MultiTokenDecoder
from experiments.parts import timed_as
from experiments.rollout.batch import CachedModel, Rollout, generate
from experiments.tasks import Problem, Task
from experiments.tasks.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Speculation:
    """What it gave (log-probabilities are 0: greedy), and how many guesses were made and taken, up to each answer's
    end. rounds: forward passes of the model after that of the prompts."""

    rollout: Rollout
    guessed: int
    taken: int
    rounds: int


@timed_as("decode")
@torch.no_grad()
def speculate(model: MultiTokenDecoder, prompts: Prompts, tokenizer: Tokenizer, max_tokens: int) -> Speculation:
    """Greedy answers (P, T) to prompts, as `generate` gives without noise."""
    count, device, depth = len(prompts), prompts.tokens.device, len(model.further)
    padding = torch.zeros(count, dtype=torch.long, device=device) if prompts.padding is None else prompts.padding
    # A round writes past the end by up to `depth`; that is cut off.
    ids = torch.full((count, max_tokens + depth + 1), tokenizer.pad_id, device=device)
    every, steps = torch.arange(count, device=device), torch.arange(depth + 1, device=device)
    cache = model.new_cache()

    rows = torch.arange(prompts.tokens.shape[1], device=device)
    seen = rows >= padding[:, None]
    mask = _mask(seen[:, :0], seen)
    positions = (rows - padding[:, None]).clamp_(min=0)
    hidden = model.hidden(prompts.tokens, positions, mask, cache)
    last = model.logits(hidden[:, -1]).argmax(dim=-1)
    ids[:, 0] = last
    length = torch.ones(count, dtype=torch.long, device=device)
    open_ = (last != tokenizer.eos_id) & (length < max_tokens)
    ahead = torch.cat((prompts.tokens[:, 1:], last[:, None]), dim=1)
    newest = torch.full((count,), len(rows) - 1, device=device)
    guesses = _guesses(model, hidden, ahead, newest, positions, mask, cache)
    guessed = taken = rounds = 0
    while bool(open_.any()):
        rounds += 1
        inputs = torch.cat((last[:, None], guesses), dim=1)
        positions = len(rows) - padding[:, None] + length[:, None] - 1 + steps
        mask = _mask(seen, torch.ones_like(inputs, dtype=torch.bool))
        hidden = model.hidden(inputs, positions, mask, cache)
        said = model.logits(hidden).argmax(dim=-1)
        right, new, ended = _checked(guesses, said, tokenizer.eos_id)
        # Nothing counts beyond the last token that is asked for.
        new &= (length[:, None] + steps < max_tokens) & open_[:, None]
        added = new.sum(dim=1)
        at = every[:, None], length[:, None] + steps
        ids[at] = torch.where(new, said, ids[at])
        guessed += depth * int(open_.sum())
        taken += int((added - open_.long()).sum())
        length = length + added
        open_ = open_ & ~ended & (length < max_tokens)

        last = said[every, right]
        seen = torch.cat((seen, steps <= right[:, None]), dim=1)
        guesses = _guesses(model, hidden, said, right, positions, mask, cache)
    tokens = ids[:, :max_tokens]
    written = torch.arange(max_tokens, device=device) < length[:, None]
    rollout = Rollout(tokens, written, torch.zeros(tokens.shape, device=device))
    return Speculation(rollout, guessed, taken, rounds)


def _checked(guesses: Tensor, said: Tensor, eos_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of guesses (batch, D), and what the model says itself (batch, D + 1): how many are right, from the first on
    (batch,); which of what it says is new (batch, D + 1), up to an end; and where there is one (batch,)."""
    right = (guesses == said[:, :-1]).long().cumprod(dim=1).sum(dim=1)
    new = torch.arange(said.shape[1], device=said.device) <= right[:, None]
    ends = ((said == eos_id) & new).long()
    return right, new & (ends.cumsum(dim=1) - ends == 0), ends.any(dim=1)


def _guesses(
    model: MultiTokenDecoder,
    hidden: Tensor,
    ahead: Tensor,
    newest: Tensor,
    positions: Tensor,
    mask: Tensor,
    cache: KVCache,
) -> Tensor:
    """D tokens (batch, D) that may follow the one after row `newest` (batch,) of the rows that were just computed.

    hidden (batch, rows, d): the model's of these rows; ahead (batch, rows): the token after each, of which those beyond
    `newest` count for nothing. Where module k needs a token that is not there yet, it takes the guess of the one
    before.
    """
    every, guesses = torch.arange(len(newest), device=newest.device), []
    for k in range(1, len(model.further) + 1):
        hidden, normed = model.look_further(k, hidden, ahead, positions, mask, cache)
        guess = model.logits(normed[every, newest]).argmax(dim=-1)
        guesses.append(guess)
        ahead = torch.cat((ahead[:, 1:], guess[:, None]), dim=1)
        ahead[every, newest] = guess
    return torch.stack(guesses, dim=1)


def _mask(held: Tensor, new: Tensor) -> Tensor:
    """(batch, 1, new rows, held + new rows): of those held who count, of the new ones those up to itself; a row that
    doesn't count looks at itself, or its softmax would be over nothing."""
    rows = new.shape[1]
    earlier = torch.ones(rows, rows, dtype=torch.bool, device=new.device).tril()
    itself = torch.eye(rows, dtype=torch.bool, device=new.device)
    among = (earlier & new[:, None, :]) | itself
    return torch.cat((held[:, None, :].expand(-1, rows, -1), among), dim=2)[:, None]


@timed_as("evaluate")
def speculative_outcomes(
    model: CachedModel, task: Task, problems: Sequence[Problem], tokenizer: Tokenizer, count: int
) -> dict[str, float]:
    """Of a model with modules for further tokens, on the first `count` of `problems`, one by one; of others nothing.

    acceptance_rate: guesses taken / made. speculative_speedup: seconds of greedy decoding / of the same answers by
    `speculate`, prompts included.
    """
    if not isinstance(model, MultiTokenDecoder):
        return {}
    steps = task.config.max_answer_tokens
    prompts = [encode_prompts([problem.prompt], tokenizer, model.device) for problem in problems[:count]]
    guessed = taken = 0
    plain_s = speculative_s = 0.0
    for index, prompt in enumerate([prompts[0], *prompts]):
        began_s = time.perf_counter()
        generate(model, prompt, tokenizer, steps).tokens.cpu()
        between_s = time.perf_counter()
        speculation = speculate(model, prompt, tokenizer, steps)
        speculation.rollout.tokens.cpu()
        if index:  # the first one warms up
            plain_s, speculative_s = plain_s + between_s - began_s, speculative_s + time.perf_counter() - between_s
            guessed, taken = guessed + speculation.guessed, taken + speculation.taken
    outcomes = {"speculative_speedup": plain_s / speculative_s}
    # Where every answer is one token long, nothing is guessed.
    return {**outcomes, "acceptance_rate": taken / guessed} if guessed else outcomes
