"""A stack of adapters in training: `StackEngine` knows rows, here it is kept in mind whose rows they are."""

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor

from experiments.fusion.decoder import StackedDecoder
from experiments.fusion.engine import StackEngine
from experiments.fusion.lora.stack import LoraStack
from experiments.fusion.optimizer import MemberOptimizer, Moments, moments_of, solo_state
from experiments.models.adapter import Adapter


class LoraEngine(StackEngine):
    """Calling it is the forward pass of the stack; see `LoraStack.forward`. A stack of one is a member."""

    def __init__(self, stack: LoraStack, members: Sequence[MemberOptimizer]) -> None:
        self.loras = stack
        # What a StackEngine asks of its stack a LoraStack answers alike.
        super().__init__(cast(StackedDecoder, stack), members)

    def keep(self, members: Sequence[int]) -> None:
        """Keeps some members, in the given order, and compacts the stack."""
        super().keep(members)
        self.loras.set_sizes([self.loras.sizes[member] for member in members])

    def append(self, decoder: Any, optimizer: MemberOptimizer, moments: Moments | None = None) -> None:
        """Puts a member in at the end, a `LoraStack` of one over the same base: fresh, or with moments (N,) of the
        stack's layout. Raises ValueError for one that does not fit."""
        self.loras.require_same_kind(decoder)
        self._append_row(decoder.weights.detach()[0], optimizer, moments)
        self.loras.set_sizes([*self.loras.sizes, *decoder.sizes])

    def adapter(self, member: int) -> Adapter:
        """A copy of one member's adapter."""
        return self.loras.adapter(member)

    def optimizer_state(self, member: int, lr: float) -> dict[str, Any]:
        """The state dict of the AdamW of an adapter that trains alone, in the order of peft's parameters."""
        layout, rank = self.loras.lora_layout, self.loras.sizes[member].rank
        narrow, moments = layout.at(rank), self.optimizer.moments(member)

        def cut(row: Tensor) -> Tensor:
            return narrow.pack(layout.narrow(row, rank))

        alone = Moments(cut(moments.exp_avg), cut(moments.exp_avg_sq), moments.steps)
        return solo_state(alone, narrow, self._optimizers[member], lr)

    def load(self, member: int, adapter: Adapter, optimizer_state: dict[str, Any]) -> None:
        """Gives a member an adapter and the state of its AdamW, as from a checkpoint; hyperparameters stay.

        Raises ValueError for an adapter of another rank, alpha or other layers than the member's.
        """
        size, layout = self.loras.sizes[member], self.loras.lora_layout
        for name, found, wanted in (("rank", adapter.rank, size.rank), ("alpha", adapter.alpha, size.alpha)):
            if found != wanted:
                raise ValueError(f"model.lora.{name}={wanted}: the checkpoint's adapter has {found}")
        narrow = layout.at(size.rank)
        moments = moments_of(optimizer_state, narrow, self.device)

        def widen(row: Tensor) -> Tensor:
            return layout.widen(narrow.unpack(row), size.rank)

        wide = Moments(widen(moments.exp_avg), widen(moments.exp_avg_sq), moments.steps)
        self.restore(member, layout.widen(adapter.weights, size.rank).to(self.device), wide)
