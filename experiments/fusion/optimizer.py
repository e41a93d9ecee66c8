"""AdamW with clipping over a stack, every hyperparameter of each member its own.

The update is the solo engine's: gradients are scaled to the member's own clip norm, then decoupled weight decay and
Adam with bias correction (arXiv:1711.05101, algorithm 2). On a CPU a member's row goes through torch's fused AdamW, the
kernel that a solo stage runs: one pass over memory. On a GPU that would be one launch a member, so all rows go through
the same formula at once, with hyperparameters as tensors on the device: it never waits for the host and can be captured
in a CUDA graph.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from experiments.fusion.stack import StackLayout
from orchestrator.schema.training import OptimizerConfig


@dataclass(frozen=True, slots=True)
class MemberOptimizer:
    """One member's hyperparameters. `max_norm` bounds the norm of its gradient; 0 is no clipping."""

    config: OptimizerConfig
    max_norm: float


@dataclass(frozen=True, slots=True)
class Moments:
    """One member's optimizer state: Adam's two moments, rows (N,), and the number of its updates."""

    exp_avg: Tensor
    exp_avg_sq: Tensor
    steps: int


class StackedAdamW(torch.optim.Optimizer):
    """Over the weights (M, N) of a stack. Say what the next step is by `prepare`, then call `step`.

    grad_norms (M,): of each member's last gradient before clipping. learned: how many weights from the front of a row
    are updated, None for all; those behind have no gradient, and don't decay either.
    """

    def __init__(
        self,
        weights: nn.Parameter,
        members: Sequence[MemberOptimizer],
        *,
        row_by_row: bool | None = None,
    ) -> None:
        """`row_by_row` chooses the path (None: by the device); both make the same update to rounding."""
        super().__init__([weights], {"lr": 0.0})
        self._weights = weights
        self.learned: int | None = None
        self._row_by_row = weights.device.type == "cpu" if row_by_row is None else row_by_row
        self._members = list(members)
        self._next_lrs: list[float] = []
        self._next_active: list[bool] = []
        self.exp_avg = torch.zeros_like(weights, requires_grad=False)
        self.exp_avg_sq = torch.zeros_like(weights, requires_grad=False)
        self.steps = torch.zeros(len(members), device=weights.device)
        self.grad_norms = torch.zeros(len(members), device=weights.device)
        self._lay_out_hyperparameters()

    def prepare(self, lrs: Sequence[float], active: Sequence[bool] | None = None) -> None:
        """Sets the next step's learning rates; members that are not `active` keep weights, moments and step count."""
        if len(lrs) != len(self._members):
            raise ValueError(f"{len(lrs)} learning rates for {len(self._members)} members")
        self._next_lrs = list(lrs)
        self._next_active = [True] * len(lrs) if active is None else list(active)
        if not self._row_by_row:
            self._lrs.copy_(torch.tensor(self._next_lrs)[:, None], non_blocking=True)
            self._active.copy_(torch.tensor(self._next_active, dtype=torch.float32)[:, None], non_blocking=True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of the active members from `weights.grad` (M, N), which is scaled in place where clipped."""
        gradients = self._weights.grad
        assert gradients is not None, "step() without a gradient"
        self.grad_norms.copy_(torch.linalg.vector_norm(gradients, dim=1))
        if self._row_by_row:
            self._update_rows(gradients)
        else:
            self._update_all(gradients)

    def moments(self, member: int) -> Moments:
        """A copy of one member's state."""
        return Moments(self.exp_avg[member].clone(), self.exp_avg_sq[member].clone(), int(self.steps[member]))

    @torch.no_grad()
    def set_moments(self, member: int, moments: Moments) -> None:
        """Gives one member the state `moments`."""
        self.exp_avg[member] = moments.exp_avg
        self.exp_avg_sq[member] = moments.exp_avg_sq
        self.steps[member] = float(moments.steps)

    @torch.no_grad()
    def keep(self, members: Sequence[int]) -> None:
        """Keeps the state of some members, in the given order; the weights are whoever owns them's to choose."""
        kept = list(members)
        self.exp_avg, self.exp_avg_sq = self.exp_avg[kept], self.exp_avg_sq[kept]
        self.steps, self.grad_norms = self.steps[kept], self.grad_norms[kept]
        self._members = [self._members[index] for index in kept]
        self._lay_out_hyperparameters()

    @torch.no_grad()
    def append(self, member: MemberOptimizer) -> None:
        """Adds a member that has not been updated yet."""
        row = self.exp_avg.new_zeros((1, self.exp_avg.shape[1]))
        self.exp_avg, self.exp_avg_sq = torch.cat((self.exp_avg, row)), torch.cat((self.exp_avg_sq, row))
        self.steps = torch.cat((self.steps, self.steps.new_zeros(1)))
        self.grad_norms = torch.cat((self.grad_norms, self.grad_norms.new_zeros(1)))
        self._members.append(member)
        self._lay_out_hyperparameters()

    def _lay_out_hyperparameters(self) -> None:
        """As columns (M, 1) on the device."""

        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32).to(self._weights.device)[:, None]

        configs = [member.config for member in self._members]
        self._beta1, self._beta2 = column([c.beta1 for c in configs]), column([c.beta2 for c in configs])
        self._kept1, self._kept2 = column([1.0 - c.beta1 for c in configs]), column([1.0 - c.beta2 for c in configs])
        self._eps, self._decay = column([c.eps for c in configs]), column([c.weight_decay for c in configs])
        self._max_norms = column([member.max_norm or math.inf for member in self._members])
        self._lrs, self._active = column([0.0] * len(configs)), column([0.0] * len(configs))
        self._next_lrs, self._next_active = [], []

    def _scales(self) -> Tensor:
        """(M, 1): 1 where the norm is within bounds. A product with the reciprocal, as in `clip_grad_norm_`."""
        return ((self.grad_norms[:, None] + 1e-6).reciprocal() * self._max_norms).clamp(max=1.0)

    def _update_rows(self, gradients: Tensor) -> None:
        scales = self._scales()
        if min(scales.flatten().tolist(), default=1.0) != 1.0:
            gradients.mul_(scales)
        # All views at once: made one by one they take as long as the updates.
        rows = zip(*(tensor.unbind() for tensor in (*self._learned(gradients), self.steps)), strict=True)
        turns = zip(rows, self._members, self._next_lrs, self._next_active, strict=True)
        for (weights, gradient, first, second, count), member, lr, active in turns:
            if not active:
                continue
            config = member.config
            count += 1
            torch._fused_adamw_(
                [weights],
                [gradient],
                [first],
                [second],
                [],
                [count],
                lr=lr,
                beta1=config.beta1,
                beta2=config.beta2,
                weight_decay=config.weight_decay,
                eps=config.eps,
                amsgrad=False,
                maximize=False,
            )

    def _update_all(self, gradients: Tensor) -> None:
        """An inactive member's rates are zero: its rows are multiplied by one and nothing is added."""
        (weights, gradients, exp_avg, exp_avg_sq), active = self._learned(gradients), self._active
        gradients.mul_(self._scales())
        self.steps.add_(active.flatten())
        counts = self.steps.clamp(min=1.0)[:, None]
        weights.mul_(1.0 - self._lrs * active * self._decay)
        exp_avg.lerp_(gradients, self._kept1 * active)
        exp_avg_sq.mul_(1.0 - self._kept2 * active).addcmul_(gradients, gradients * (self._kept2 * active))
        root = exp_avg_sq.sqrt().div_((1.0 - self._beta2**counts).sqrt()).add_(self._eps)
        weights.sub_((exp_avg / root).mul_(self._lrs * active / (1.0 - self._beta1**counts)))

    def _learned(self, gradients: Tensor) -> tuple[Tensor, ...]:
        """What is updated of weights, gradients and the two moments: views."""
        tensors = self._weights.detach(), gradients, self.exp_avg, self.exp_avg_sq
        return tensors if self.learned is None else tuple(tensor[:, : self.learned] for tensor in tensors)


def solo_state(moments: Moments, layout: StackLayout, member: MemberOptimizer, lr: float) -> dict[str, Any]:
    """The state dict of the AdamW that a solo stage has, at learning rate `lr`. Its moments are views of the rows
    `moments`, so that a file has each row once, as one piece."""
    weights = [torch.zeros(shape) for shape in layout.shapes]
    config = member.config
    adam = torch.optim.AdamW(
        weights, lr=lr, betas=(config.beta1, config.beta2), eps=config.eps, weight_decay=config.weight_decay, fused=True
    )
    state = adam.state_dict()
    first, second = (layout.unpack(row.cpu()) for row in (moments.exp_avg, moments.exp_avg_sq))
    if moments.steps:  # a solo optimizer that has not stepped yet has no state
        state["state"] = {
            index: {
                "step": torch.tensor(float(moments.steps)),
                "exp_avg": first[name],
                "exp_avg_sq": second[name],
            }
            for index, name in enumerate(layout.names)
        }
    return state


def moments_of(state: Mapping[str, Any], layout: StackLayout, device: torch.device) -> Moments:
    """What a solo AdamW's state dict says of one member."""
    entries = state["state"]
    if not entries:
        return Moments(torch.zeros(layout.row_size, device=device), torch.zeros(layout.row_size, device=device), 0)
    # A weight that has never had a gradient has no state: a module that is carried along.
    zeros = (torch.zeros(shape) for shape in layout.shapes)
    of_weights = [entries.get(index, {"exp_avg": zero, "exp_avg_sq": zero}) for index, zero in enumerate(zeros)]
    first, second = (
        layout.pack_weights({n: entry[moment] for n, entry in zip(layout.names, of_weights, strict=True)}).to(device)
        for moment in ("exp_avg", "exp_avg_sq")
    )
    return Moments(first, second, int(entries[0]["step"]))
