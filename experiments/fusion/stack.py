"""Where each weight of a decoder stands in its row of a stack.

A stack holds M members of one shape as one tensor (M, N): a row is one member's weights, end to end, in the order of
`Decoder.parameters()`. Taking members out and putting them in is choosing rows; optimizer and clipping are element-wise
over rows; and each weight of all members, (M, *shape), is a view.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from experiments.models.multi_token import new_decoder
from orchestrator.schema.training import ModelConfig


@dataclass(frozen=True, slots=True)
class StackLayout:
    """Names, shapes and sizes of a decoder's weights, in the order of a row. `beside`: names of what a member's state
    has besides, and no row holds."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]
    beside: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: ModelConfig, vocab_size: int) -> "StackLayout":
        """The layout of decoders of this shape."""
        with torch.device("meta"):
            decoder = new_decoder(config, vocab_size)
        named = list(decoder.named_parameters())
        shapes = tuple(tuple(weight.shape) for _, weight in named)
        sizes = tuple(weight.numel() for _, weight in named)
        return cls(tuple(name for name, _ in named), shapes, sizes, tuple(name for name, _ in decoder.named_buffers()))

    @property
    def row_size(self) -> int:
        """N, weights of one member."""
        return sum(self.sizes)

    def size_before(self, prefix: str) -> int:
        """How many weights stand in front of the first whose name begins with `prefix`; all where none does."""
        before = takewhile(lambda named: not named[0].startswith(prefix), zip(self.names, self.sizes, strict=True))
        return sum(size for _, size in before)

    def pack(self, state: Mapping[str, Tensor]) -> Tensor:
        """One member's state dict as a row (N,), in single precision.

        Raises ValueError for a state of another shape, naming the weight.
        """
        if set(state) != {*self.names, *self.beside}:
            odd = sorted(set(state) ^ {*self.names, *self.beside})[0]
            raise ValueError(
                f"{odd!r} is in the member or in the stack, not in both: members of a stack have one shape"
            )
        return self.pack_weights(state)

    def pack_weights(self, state: Mapping[str, Tensor]) -> Tensor:
        """`pack` of what has a tensor for each weight, whatever else."""
        for name, shape in zip(self.names, self.shapes, strict=True):
            if tuple(state[name].shape) != shape:
                raise ValueError(f"{name} is {tuple(state[name].shape)}, the stack's members have {shape}")
        return torch.cat([state[name].detach().reshape(-1).float() for name in self.names])

    def pieces(self, rows: Tensor) -> list[Tensor]:
        """Each weight of all members, (M, *shape): views of `rows` (M, N).

        One split, so that the gradient of a stack is put together by one concatenation.
        """
        parts = rows.split(self.sizes, dim=1)
        return [part.view(rows.shape[0], *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def unpack(self, row: Tensor) -> dict[str, Tensor]:
        """A row (N,) as an ordinary state dict; the tensors are views of the row."""
        return {name: piece[0] for name, piece in zip(self.names, self.pieces(row[None]), strict=True)}


def pack_all(layout: StackLayout, states: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """State dicts of M members as rows (M, N)."""
    return torch.stack([layout.pack(state) for state in states])
