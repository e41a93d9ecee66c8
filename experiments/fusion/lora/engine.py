"""A stack of adapters in training: `StackEngine` knows rows, here it is kept in mind whose rows they are."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor

from experiments.fusion.decoder import StackedDecoder
from experiments.fusion.engine import StackEngine
from experiments.fusion.lora.stack import LoraStack
from experiments.fusion.optimizer import MemberOptimizer, Moments, moments_of, solo_state
from experiments.fusion.stack import StackLayout
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
        """The state dict of the AdamW of the member alone: a stack of one whose largest rank is the member's."""
        moments = self.optimizer.moments(member)
        first, second = self._narrow(moments.exp_avg, member), self._narrow(moments.exp_avg_sq, member)
        alone = Moments(first, second, moments.steps)
        return solo_state(alone, self._alone(member), self._optimizers[member], lr)

    def solo_weights(self, member: int) -> Tensor:
        """The weights (1, N) of the member alone, see `optimizer_state`."""
        return self._narrow(self.loras.weights.detach()[member].cpu(), member)[None]

    def load(self, member: int, weights: Tensor, optimizer_state: Mapping[str, Any]) -> None:
        """What `solo_weights` and `optimizer_state` gave, of a member of this one's rank; hyperparameters stay."""
        moments = moments_of(optimizer_state, self._alone(member), self.device)
        first, second = self._wide(moments.exp_avg, member), self._wide(moments.exp_avg_sq, member)
        row = self._wide(weights[0].to(self.device), member)
        self.restore(member, row, Moments(first, second, moments.steps))

    def _alone(self, member: int) -> StackLayout:
        size = self.loras.lora_layout.at(self.loras.sizes[member].rank).row_size
        return StackLayout(("weights",), ((1, size),), (size,))

    def _narrow(self, row: Tensor, member: int) -> Tensor:
        layout, rank = self.loras.lora_layout, self.loras.sizes[member].rank
        return layout.at(rank).pack(layout.narrow(row, rank))

    def _wide(self, row: Tensor, member: int) -> Tensor:
        layout, rank = self.loras.lora_layout, self.loras.sizes[member].rank
        return layout.widen(layout.at(rank).unpack(row), rank)
