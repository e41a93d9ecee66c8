"""Many adapters over one frozen base as one model: the base computes all members' sequences as one batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from experiments.fusion.lora.base import FrozenBase, LowRank
from experiments.fusion.lora.layout import LoraLayout
from experiments.models.adapter import Adapter
from experiments.models.hf import HfCache


@dataclass(frozen=True, slots=True)
class LoraSize:
    """What of a member's adapter is not in its row."""

    rank: int
    alpha: float


def adapter_layout(size: LoraSize, target_modules: Sequence[str]) -> dict[str, Any]:
    """What an adapter's checkpoint depends on."""
    return {"rank": size.rank, "alpha": size.alpha, "target_modules": sorted(target_modules)}


class LoraStack(nn.Module):
    """Called as a `StackedDecoder`: batches are flat, (members x batch, rows), one member's after the other's.

    `weights` (M, N), the adapters in fp32, is its only parameter. A stack of one is a member by itself; stacks share
    the base, so taking one apart and putting it together costs adapters only.
    """

    _scales: Tensor
    routing: None = None  # whatever experts the base has are as they are

    def __init__(self, base: FrozenBase, layout: LoraLayout, rows: Tensor, sizes: Sequence[LoraSize]) -> None:
        """rows: (M, N) of the layout."""
        super().__init__()
        self.base, self.lora_layout, self.layout = base, layout, layout.rows
        if tuple(rows.shape) != (len(sizes), self.layout.row_size):
            raise ValueError(f"rows are {tuple(rows.shape)}; {len(sizes)} members have {self.layout.row_size} each")
        self.weights = nn.Parameter(rows.float())
        self.set_sizes(sizes)

    @classmethod
    def of(cls, base: FrozenBase, adapters: Sequence[Adapter], max_rank: int) -> "LoraStack":
        """A stack of adapters of ranks up to `max_rank`, on the base's device; it may be empty."""
        layout = LoraLayout(base.sites, max_rank)
        rows = torch.empty(len(adapters), layout.rows.row_size)
        for index, adapter in enumerate(adapters):
            rows[index] = layout.widen(adapter.weights, adapter.rank)
        return cls(base, layout, rows.to(base.device), [LoraSize(a.rank, a.alpha) for a in adapters])

    @classmethod
    def joined(cls, stacks: "Sequence[LoraStack]") -> "LoraStack":
        """One stack, of copies of the members of all. Raises ValueError unless base and largest rank are the same."""
        first = stacks[0]
        for stack in stacks[1:]:
            first.require_same_kind(stack)
        rows = torch.cat([stack.weights.detach() for stack in stacks])
        return cls(first.base, first.lora_layout, rows, [size for stack in stacks for size in stack.sizes])

    @property
    def members(self) -> int:
        """How many members the stack has."""
        return self.weights.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weights.device

    @property
    def sizes(self) -> tuple[LoraSize, ...]:
        """Rank and alpha of each member."""
        return self._sizes

    def set_sizes(self, sizes: Sequence[LoraSize]) -> None:
        """Says whose rows the rows are: for whoever puts in others."""
        self._sizes = tuple(sizes)
        scales = torch.tensor([size.alpha / size.rank for size in sizes], dtype=torch.float32)
        self.register_buffer("_scales", scales.to(self.weights.device)[:, None, None], persistent=False)

    def new_cache(self) -> HfCache:
        """An empty cache for all members."""
        return self.base.model.new_cache()

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        cache: HfCache | None = None,
        logits_from: int = 0,
    ) -> Tensor:
        """Logits (members x batch, rows - logits_from, vocab); see `Decoder.forward`, batch being members x batch."""
        pieces = iter(self.layout.pieces(self.weights))
        adapters = {site.name: LowRank(next(pieces), next(pieces), self._scales) for site in self.base.sites}
        with self.base.adapted(tokens.shape[0], adapters) as model:
            return model(tokens, positions, mask, cache, logits_from)

    def adapter(self, member: int = 0) -> Adapter:
        """A copy of one member's adapter, in its own rank."""
        size = self._sizes[member]
        weights = self.lora_layout.narrow(self.weights.detach()[member], size.rank)
        copies = {name: weight.float().clone() for name, weight in weights.items()}
        return Adapter(size.rank, size.alpha, self.base.target_modules, copies)

    def decoder(self, member: int) -> "LoraStack":
        """One member with a copy of its adapter, to be called like a `Decoder`."""
        return self.select([member])

    def select(self, members: Sequence[int]) -> "LoraStack":
        """A stack with copies of some members' adapters, in the given order, over the same base."""
        rows = self.weights.detach()[list(members)]
        return LoraStack(self.base, self.lora_layout, rows, [self._sizes[member] for member in members])

    def __deepcopy__(self, memo: dict[int, Any]) -> "LoraStack":
        """With copies of the adapters, over the same base."""
        return self.select(range(self.members))

    def require_same_kind(self, other: "LoraStack") -> None:
        """Raises ValueError unless the members of both could be in one stack."""
        if other.base is not self.base:
            raise ValueError("adapters of another base: the members of a stack share one")
        if other.lora_layout.max_rank != self.lora_layout.max_rank:
            ranks = f"{other.lora_layout.max_rank} and {self.lora_layout.max_rank}"
            raise ValueError(f"model.lora.max_rank is {ranks}: the members of a stack have one")
