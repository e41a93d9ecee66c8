"""A stack in training: the interface of `experiments.engine.Engine`, for many members at once.

`StackEngine` is torch alone. `experiments.engine.DeepSpeedStack` gives the same under one DeepSpeed engine. Members
come and go between steps; a member's place is its index in the stack, and places behind one that left move up. A stack
may be empty for a while.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from experiments.fusion.allocator import keep_freed_memory
from experiments.fusion.decoder import StackedDecoder
from experiments.fusion.optimizer import MemberOptimizer, Moments, StackedAdamW, solo_state
from experiments.fusion.routing import bias_steps_of
from experiments.models.decoder import Decoder
from experiments.parts import timed_as


class StackEngine:
    """Calling it is the forward pass of the stack; see `StackedDecoder.forward`."""

    def __init__(self, stack: StackedDecoder, members: Sequence[MemberOptimizer]) -> None:
        if len(members) != stack.members:
            raise ValueError(f"{len(members)} optimizers for a stack of {stack.members} members")
        if stack.device.type == "cpu":
            keep_freed_memory()
        self.stack = stack
        self.optimizer = StackedAdamW(stack.weights, members)
        self._optimizers = list(members)

    @property
    def device(self) -> torch.device:
        """Where the stack is."""
        return self.stack.device

    @property
    def members(self) -> int:
        """How many members the stack has."""
        return self.stack.members

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.stack(*args, **kwargs)

    @timed_as("backward")
    def backward(self, losses: Tensor) -> None:
        """Gradients of each member's own loss, (M,), and of what balances its experts: no member's weights are in
        another's. The losses are left as numbers: their graph goes."""
        self._total(losses).backward()
        losses.detach_()

    @timed_as("optimizer")
    def step(self, lrs: Sequence[float], active: Sequence[bool] | None = None) -> None:
        """Clips and updates each member at its own rate; a member that is not `active` keeps all that it has."""
        self.optimizer.prepare(lrs, active)
        self._step()
        if self.stack.routing is not None:
            self.stack.routing.balance(active)

    def grad_norms(self) -> Tensor:
        """Norm of each member's last gradient before clipping, (M,)."""
        return self.optimizer.grad_norms

    def decoder(self, member: int) -> Decoder:
        """An ordinary decoder with a copy of one member's weights."""
        return self.stack.decoder(member)

    def moments(self, member: int) -> Moments:
        """A copy of one member's optimizer state."""
        return self.optimizer.moments(member)

    def optimizer_state(self, member: int, lr: float) -> dict[str, Any]:
        """One member's optimizer state as that of a solo stage, see `solo_state`."""
        return solo_state(self.optimizer.moments(member), self.stack.layout, self._optimizers[member], lr)

    @torch.no_grad()
    def keep(self, members: Sequence[int]) -> None:
        """Keeps some members, in the given order, and compacts the stack."""
        kept = list(members)
        self._set_rows(self.stack.weights.detach()[kept])
        if self.stack.routing is not None:
            self.stack.routing.bias_steps = self.stack.routing.bias_steps[kept]
        self.optimizer.keep(kept)
        self._optimizers = [self._optimizers[index] for index in kept]

    @torch.no_grad()
    def append(self, decoder: Decoder, optimizer: MemberOptimizer, moments: Moments | None = None) -> None:
        """Puts a member in at the end: fresh, or with the optimizer state it brings. Raises ValueError for another
        shape."""
        self._append_row(self.stack.layout.pack(decoder.state_dict()), optimizer, moments)
        if self.stack.routing is not None:
            self.stack.routing.append(bias_steps_of(decoder))

    @torch.no_grad()
    def _append_row(self, row: Tensor, optimizer: MemberOptimizer, moments: Moments | None) -> None:
        """row: (N,) of the stack's layout."""
        row = row.to(self.device)
        self._set_rows(torch.cat((self.stack.weights.detach(), row[None])))
        self.optimizer.append(optimizer)
        self._optimizers.append(optimizer)
        if moments is not None:
            self.optimizer.set_moments(self.members - 1, moments)

    @torch.no_grad()
    def restore(self, member: int, row: Tensor, moments: Moments) -> None:
        """Gives a member weights, a row (N,) of the stack's layout, and optimizer state, as from a checkpoint."""
        self.stack.weights.detach()[member] = row
        self.optimizer.set_moments(member, moments)

    def _total(self, losses: Tensor) -> Tensor:
        """What is differentiated: the losses, and what balances experts."""
        auxiliary = None if self.stack.routing is None else self.stack.routing.take_auxiliary_loss()
        return losses.sum() if auxiliary is None else (losses + auxiliary).sum()

    def _step(self) -> None:
        self.optimizer.step()
        self.stack.weights.grad = None

    def _set_rows(self, rows: Tensor) -> None:
        """The parameter stays the same object: a DeepSpeed engine and its optimizer hold on to it."""
        self.stack.weights.grad = None
        self.stack.weights.data = rows
