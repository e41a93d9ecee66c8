"""Decoding with a key/value cache: sampling and greedy.

Sampling inverts the cumulative distribution at one uniform number per token. The numbers are drawn beforehand for the
global batch (`sampling_noise`), so a gang of processes that each decode a slice samples what one process would sample,
and a result does not depend on when other sequences end.
"""

from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

import torch
from torch import Tensor

from experiments.batches import Prompts
from experiments.models.shared_prompt import group_layout
from experiments.parts import timed_as
from experiments.tasks.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Rollout:
    """Completions (P x G, T): token ids, PAD after the end.

    mask: True on the tokens that were generated, EOS included. log_probs: of these tokens under the distribution they
    were sampled from (temperature included), 0 elsewhere.
    """

    tokens: Tensor
    mask: Tensor
    log_probs: Tensor


class Sampling(TypedDict):
    """How completions of P prompts are drawn: group_size (G) of each. noise (P x G, T), in [0, 1), is all the chance
    that there is: of a completion whatever others are decoded with it."""

    group_size: int
    temperature: float
    noise: Tensor


class Cache(Protocol):
    """Keys and values of the rows seen so far; a forward pass extends it."""

    def reserve(self, rows: int) -> None:
        """Says, before the first of them is there, how many rows there will be."""

    def select(self, batch: Tensor) -> None:
        """Keeps the given batch entries (an index tensor) only."""


class CachedModel(Protocol):
    """A `Decoder`, a stack of them, or another model that is called alike."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Logits; see `Decoder.forward`."""

    def new_cache(self) -> Cache:
        """An empty cache for this model."""


@timed_as("decode")
def sampling_noise(count: int, steps: int, generator: torch.Generator) -> Tensor:
    """Uniform numbers (count, steps) in [0, 1) for the completions of the global batch; a process takes its rows."""
    return torch.rand(count, steps, generator=generator)


@timed_as("decode")
@torch.no_grad()
def generate(
    model: CachedModel,
    prompts: Prompts,
    tokenizer: Tokenizer,
    max_tokens: int,
    *,
    group_size: int = 1,
    temperature: float | Tensor = 1.0,
    noise: Tensor | None = None,
    members: int = 1,
    ask_for_ends: bool = True,
) -> Rollout:
    """`group_size` completions of up to `max_tokens` tokens for each prompt; greedy when `noise` (P x G, T) is None.

    Each prompt is computed once for its group. Groups whose completions have all ended leave the batch once they are
    half of it, and decoding stops when all have ended; without `ask_for_ends` the host never waits for the device.

    A stack of `members` models takes as many prompts for each, one member's after the other's; `temperature` may be
    (members,). Its members keep batches of one size: that of the member with the most open groups.
    """
    count = len(prompts) * group_size
    tokens, layout = group_layout(prompts.tokens, group_size, max_tokens, prompts.padding)
    batch, group = tokens.shape[0], layout.group_size
    if noise is not None:
        noise = noise.view(batch, group, max_tokens)
    ids = torch.full((batch, max_tokens, group), tokenizer.pad_id, device=tokens.device)
    log_probs = torch.zeros((batch, max_tokens, group), device=tokens.device)
    mask = torch.zeros((batch, max_tokens, group), dtype=torch.bool, device=tokens.device)
    active = torch.arange(batch, device=tokens.device)
    if isinstance(temperature, Tensor):
        temperature = temperature.repeat_interleave(batch // members)[:, None, None]
    ended = torch.zeros((batch, group), dtype=torch.bool, device=tokens.device)

    cache = model.new_cache()
    cache.reserve(layout.prompt_rows + group * (max_tokens - 1))  # nothing follows the last token
    positions, visible = layout.prompt()
    logits = model(tokens, positions, visible, cache, logits_from=layout.prompt_rows - 1)
    for step in range(max_tokens):
        numbers = None if noise is None else noise[active, :, step]
        heat = temperature[active] if isinstance(temperature, Tensor) else temperature
        chosen, chosen_log_probs = choose(logits, group, heat, numbers)
        chosen = chosen.masked_fill(ended, tokenizer.pad_id)
        ids[active, step] = chosen
        mask[active, step] = ~ended
        log_probs[active, step] = chosen_log_probs.masked_fill(ended, 0.0)
        ended = ended | (chosen == tokenizer.eos_id)
        if step + 1 == max_tokens:
            break
        if ask_for_ends:
            done = ended.all(dim=1).view(members, -1)
            most_open = int((~done).sum(dim=1).max())
            if most_open == 0:
                break
            if 2 * most_open <= done.shape[1]:
                kept = _open_first(done, most_open)
                active, ended, chosen = active[kept], ended[kept], chosen[kept]
                layout = layout.select(kept)
                cache.select(kept)
        positions, visible = layout.step(step)
        logits = model(chosen, positions, visible, cache)
    return Rollout(*(part.transpose(1, 2).reshape(count, max_tokens) for part in (ids, mask, log_probs)))


def _open_first(done: Tensor, count: int) -> Tensor:
    """Indices, into the batch of all members, of `count` groups of each: the open ones, then ended ones.

    done: (members, groups).
    """
    kept = done.byte().sort(dim=1, stable=True).indices[:, :count]
    starts = torch.arange(done.shape[0], device=done.device) * done.shape[1]
    return (kept + starts[:, None]).flatten()


def choose(logits: Tensor, group: int, temperature: float | Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """Next tokens and their log-probabilities, both (batch, group).

    logits: (batch, group, vocab), or (batch, 1, vocab) after the prompt, where the group shares one distribution.
    temperature: one for all, or (batch, 1, 1).
    """
    shape = (logits.shape[0], group, logits.shape[-1])
    if noise is None:
        best = logits.float().log_softmax(dim=-1).max(dim=-1)
        return best.indices.expand(shape[:2]), best.values.expand(shape[:2])
    plain = not isinstance(temperature, Tensor) and temperature == 1.0
    scaled = logits.float() if plain else logits.float() / temperature
    log_probs = scaled.log_softmax(dim=-1)
    cumulative = log_probs.exp().cumsum(dim=-1)
    # Scaled by the rounded total, so that no number lies beyond the last token that has probability.
    threshold = noise[..., None] * cumulative[..., -1:]
    found = torch.searchsorted(cumulative, threshold.reshape(shape[0], logits.shape[1], -1), right=True)
    chosen = found.view(shape[:2]).clamp_(max=shape[-1] - 1)
    return chosen, log_probs.expand(shape).gather(-1, chosen[..., None]).squeeze(-1)
