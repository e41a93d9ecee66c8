"""A tensor that grows by rows without being copied each time."""

from typing import Protocol

import torch
from torch import Tensor

IN_PLACE_MIN_BYTES = 1 << 18
"""From so many bytes on rows are written in place. On a CPU a copy of less is as fast as a write and two views: one
more row for 64 entries of 4 heads of 8 takes 8 µs by a copy and 14 in place at 8 rows, 13 and 14 at 30; eight more for
16 entries of 4 heads of 16 take 56 and 15 at 200."""


class Growing(Protocol):
    """What holds one tensor (batch, ..., rows, width) of a cache, as it is or in codes."""

    def extend(self, new: Tensor) -> Tensor:
        """Adds rows and returns all."""

    def select(self, batch: Tensor) -> None:
        """Keeps the given batch entries (an index tensor) only."""

    @property
    def rows(self) -> int:
        """How many each batch entry has."""

    @property
    def bytes(self) -> int:
        """What the rows that are there take [bytes]; room for more does not count."""


class GrowingRows:
    """A tensor as it is, and room for more rows behind it once it is large.

    While gradients are recorded it is extended by copies: they flow through it, and nothing that a backward pass needs
    is written over. Otherwise rows are written behind those that are there, so what `extend` returned before stays as
    it was.
    """

    def __init__(self, reserved: int = 0) -> None:
        """reserved: how many rows there will be. There is room for these and no more; where they get more, or nothing
        is reserved, room doubles."""
        self._reserved = reserved
        self._held: Tensor | None = None
        self._room: Tensor | None = None  # its first rows are what is held

    def extend(self, new: Tensor) -> Tensor:
        """Adds rows and returns all. Raises ValueError, or torch's RuntimeError, for rows of another batch."""
        held = self._held
        if held is None:
            self._held = new
        elif torch.is_grad_enabled() or held.nbytes < IN_PLACE_MIN_BYTES:
            self._held, self._room = torch.cat((held, new), dim=-2), None
        else:
            self._held = self._written(held, new)
        return self._held

    def select(self, batch: Tensor) -> None:
        """Keeps the given batch entries (an index tensor) only, in storage of their own."""
        if self._held is not None:
            self._held, self._room = self._held[batch], None

    @property
    def rows(self) -> int:
        """How many each batch entry has."""
        return 0 if self._held is None else self._held.shape[-2]

    @property
    def bytes(self) -> int:
        """What the rows that are there take [bytes]; room for more does not count."""
        return 0 if self._held is None else self._held.nbytes

    def _written(self, held: Tensor, new: Tensor) -> Tensor:
        before, added, room = held.shape[-2], new.shape[-2], self._room
        rows = before + added
        if held.shape[:-2] != new.shape[:-2]:  # the write would repeat them
            raise ValueError(f"rows of a tensor {tuple(new.shape)} can't follow those of {tuple(held.shape)}")
        if room is None or room.shape[-2] < rows:
            count = self._reserved if rows <= self._reserved else 2 * rows
            room = self._room = held.new_empty(*held.shape[:-2], count, held.shape[-1])
            room.narrow(-2, 0, before).copy_(held)
        room.narrow(-2, before, added).copy_(new)
        return room.narrow(-2, 0, rows)
