"""From problems to tensors: the order of the data, the slice of each process, padding and masks."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.parts import timed_as
from experiments.tasks.tokenizer import Rows, Tokenizer

_TYPES = {1: torch.uint8, 8: torch.int64}
"""By the size of a token id in `Rows` [bytes]."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """Token ids (P, S), padded on the left; `padding` (P,) counts padding tokens, None when there are none."""

    tokens: Tensor
    padding: Tensor | None

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def token_counts(self, parts: int) -> Tensor:
        """How many tokens each of `parts` equal parts has, BOS included and padding not, (parts,)."""
        counts = torch.full((parts,), self.tokens.numel() // parts, device=self.tokens.device)
        return counts if self.padding is None else counts - self.padding.view(parts, -1).sum(dim=1)

    def select(self, rows: Tensor | slice) -> "Prompts":
        """Some of the prompts, by index, or as a view."""
        return Prompts(self.tokens[rows], None if self.padding is None else self.padding[rows])


@dataclass(frozen=True, slots=True)
class Answers:
    """Token ids (N, T), padded on the right, and the mask (N, T) that is True on answer tokens, EOS included."""

    tokens: Tensor
    mask: Tensor


@timed_as("data")
def encode_prompts(texts: Sequence[str], tokenizer: Tokenizer, device: torch.device) -> Prompts:
    """What a model reads for each prompt, padded on the left to the longest."""
    rows = tokenizer.prompt_rows(texts)
    longest = max(rows.lengths)
    padded = min(rows.lengths) < longest
    padding = torch.tensor([longest - length for length in rows.lengths], device=device) if padded else None
    return Prompts(_ids(rows).to(device), padding)


@timed_as("data")
def encode_answers(texts: Sequence[str], tokenizer: Tokenizer, device: torch.device) -> Answers:
    """The tokens of each answer and EOS, padded on the right to the longest."""
    rows = tokenizer.answer_rows(texts)
    tokens = _ids(rows)
    if min(rows.lengths) == tokens.shape[1]:
        return Answers(tokens.to(device), torch.ones(tokens.shape, dtype=torch.bool, device=device))
    mask = torch.arange(tokens.shape[1]) < torch.tensor(rows.lengths)[:, None]
    return Answers(tokens.to(device), mask.to(device))


def _ids(rows: Rows) -> Tensor:
    return torch.frombuffer(rows.ids, dtype=_TYPES[rows.ids.itemsize]).long().view(len(rows.lengths), -1)


def seeded_generator(seed: int, purpose: str) -> torch.Generator:
    """A generator on the CPU of its own stream: the draws of one purpose never shift those of another."""
    digest = hashlib.blake2b(f"{purpose}:{seed}".encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


class DataOrder:
    """An endless sequence over `count` items: epoch after epoch, each a new permutation of its own.

    A pure function of seed and position, so a resumed stage needs its position only.
    """

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed
        self._epoch = -1
        self._permutation: list[int] = []

    def __getitem__(self, positions: slice) -> list[int]:
        """Items at positions [start, stop) of the endless sequence; a step of other than 1 is not supported."""
        items: list[int] = []
        while (position := positions.start + len(items)) < positions.stop:
            epoch, offset = divmod(position, self._count)
            items += self._epoch_order(epoch)[offset : offset + positions.stop - position]
        return items

    def _epoch_order(self, epoch: int) -> list[int]:
        if epoch != self._epoch:
            generator = seeded_generator(self._seed, f"order of epoch {epoch}")
            self._epoch, self._permutation = epoch, torch.randperm(self._count, generator=generator).tolist()
        return self._permutation


def part(count: int, index: int, parts: int) -> slice:
    """The `index`-th of `parts` contiguous slices of `count` items, their sizes at most one apart."""
    return slice(count * index // parts, count * (index + 1) // parts)


def micro_batches(count: int, parts: int) -> list[tuple[slice, bool]]:
    """The rows of each of `parts` micro-batches of `count` rows, and whether they are to be learned from.

    DeepSpeed counts micro-batches, and its collectives need every process to run all of them. One that would be empty
    gets row 0 and counts for nothing.
    """
    batches = [part(count, index, parts) for index in range(parts)]
    return [(rows, True) if rows.stop > rows.start else (slice(0, 1), False) for rows in batches]
