"""A prompt and its group of completions as one sequence, so that the prompt is computed once.

The rows of one batch entry are `[prompt | step 0 of completions 0..G-1 | step 1 of completions 0..G-1 | ...]`. A
completion's row sees the prompt, its own earlier rows and itself; its position counts on from the prompt as if the
other completions were not there. Logits and gradients are those of G separate sequences (to rounding), at 1/G of the
prompt's work. Decoding appends the rows of one step at a time, learning passes all of them at once: the mask of the
one is a slice of the mask of the other.

Prompts are padded on the left; `padding` counts each prompt's padding tokens, and is None when there are none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F  # noqa: N812 - the name the whole field uses
from torch import Tensor

from experiments.models.decoder import PAD_ID
from experiments.parts import timed_as

# Attention over one sequence of G completions costs up to G times that over G sequences. Up to this many completion
# rows a group that is small next to the projections saved; beyond it the prompts are repeated.
SHARED_ROWS_MAX = 512


@dataclass(frozen=True, slots=True)
class GroupLayout:
    """Positions and mask of `[prompt | group_size x steps]` for a batch of prompts of `prompt_rows` tokens."""

    prompt_rows: int
    group_size: int
    steps: int
    padding: Tensor | None
    device: torch.device

    def prompt(self) -> tuple[Tensor, Tensor | None]:
        """(positions, mask) of the prompt rows, to be passed to `Decoder.forward`."""
        return self._rows(0, self.prompt_rows, causal=True)

    def step(self, index: int) -> tuple[Tensor, Tensor | None]:
        """(positions, mask) of the rows of one decoding step, the rows before it being cached."""
        start = self.prompt_rows + index * self.group_size
        return self._rows(start, start + self.group_size, causal=self.group_size == 1)

    def all(self) -> tuple[Tensor, Tensor | None]:
        """(positions, mask) of the whole sequence."""
        return self._rows(0, self.prompt_rows + self.steps * self.group_size, causal=self.group_size == 1)

    def select(self, batch: Tensor) -> "GroupLayout":
        """The layout of some of the batch's entries."""
        if self.padding is None:
            return self
        return GroupLayout(self.prompt_rows, self.group_size, self.steps, self.padding[batch], self.device)

    def _rows(self, start: int, stop: int, causal: bool) -> tuple[Tensor, Tensor | None]:
        positions, visible = _unpadded(self.prompt_rows, self.group_size, self.steps, self.device)
        positions, visible = positions[start:stop], visible[start:stop, :stop]
        if self.padding is None:
            return positions, None if causal else visible
        rows, diagonal = _columns(self.prompt_rows + self.steps * self.group_size, self.device)
        real = rows[:stop] >= self.padding[:, None]
        # A padding row looks at itself, or its softmax would be over nothing.
        mask = (real[:, None, :] | diagonal[start:stop, :stop]).logical_and_(visible)
        return (positions - self.padding[:, None]).clamp_(min=0), mask[:, None]


@lru_cache(maxsize=64)
def _unpadded(prompt_rows: int, group_size: int, steps: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions (rows,) and visibility (rows, rows) without padding."""
    completion = torch.arange(steps * group_size, device=device)
    step, member = completion // group_size, completion % group_size
    prompt = torch.arange(prompt_rows, device=device)
    positions = torch.cat((prompt, prompt_rows + step))
    owner = torch.cat((torch.full_like(prompt, -1), member))
    visible = (owner[None, :] == -1) | (owner[None, :] == owner[:, None])
    return positions, visible & (positions[None, :] <= positions[:, None])


@lru_cache(maxsize=64)
def _columns(rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Numbers of the rows (rows,), and which of them is itself (rows, rows)."""
    return torch.arange(rows, device=device), torch.eye(rows, dtype=torch.bool, device=device)


def group_layout(prompts: Tensor, group_size: int, steps: int, padding: Tensor | None) -> tuple[Tensor, GroupLayout]:
    """The layout for `prompts` (P, S), and the prompts it is for: (P, S), or (P x G, S) where sharing would not pay."""
    if group_size * steps > SHARED_ROWS_MAX:
        prompts = prompts.repeat_interleave(group_size, dim=0)
        padding = None if padding is None else padding.repeat_interleave(group_size)
        group_size = 1
    return prompts, GroupLayout(prompts.shape[1], group_size, steps, padding, prompts.device)


@timed_as("forward")
def completion_logits(
    model: Callable[..., Tensor],
    prompts: Tensor,
    completions: Tensor,
    padding: Tensor | None = None,
    learned: Tensor | None = None,
) -> Tensor:
    """Logits (P x G, T, vocab) that predict each token of `completions` (P x G, T), given `prompts` (P, S).

    `model` is a `Decoder` or an engine around one. Completions of one prompt are neighbours. Differentiable.
    `learned` (P x G, T), bool: the tokens that a loss is of. The others are taken for padding: no loss depends on their
    rows, and experts are balanced by what is learned from.
    """
    count, length = completions.shape
    if learned is not None:
        unused = ~learned.view(prompts.shape[0], -1).any(dim=1, keepdim=True)
        prompts = prompts.masked_fill(unused, PAD_ID)
        # A row is there for the token after it: an end is none that anything follows.
        completions = completions.masked_fill(~F.pad(learned[:, 1:], (0, 1)), PAD_ID)
    prompts, layout = group_layout(prompts, count // prompts.shape[0], length - 1, padding)
    batch, group = prompts.shape[0], layout.group_size
    inputs = completions[:, :-1].view(batch, group, length - 1).transpose(1, 2).reshape(batch, -1)
    positions, mask = layout.all()
    tokens = torch.cat((prompts, inputs), dim=1)
    logits = model(tokens, positions, mask=mask, logits_from=layout.prompt_rows - 1)
    if group == 1:
        return logits
    vocab = logits.shape[-1]
    # One split and one concatenation, which puts the steps of each completion side by side: as few copies each way.
    first, later = logits.split((1, logits.shape[1] - 1), dim=1)
    shared = first[:, :, None].expand(batch, group, 1, vocab)
    own = later.view(batch, length - 1, group, vocab).transpose(1, 2)
    return torch.cat((shared, own), dim=2).view(count, length, vocab)
