"""Experts computed for the tokens that they are chosen for, and for no others.

Tokens are sorted by expert, each expert's go through it as one product, and what comes out is put back in the order of
the tokens and added up: the sum of `experts_per_token` and the shared ones. Sorting is stable and sums go by gathered
rows, so that one input has one result. Of a single token that is decoded the chosen experts' weights are gathered in
place of it. How many tokens an expert has is read on the host: this is for a CPU.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name the whole field uses
from torch import Tensor
from torch.autograd.function import once_differentiable

from orchestrator.schema.decoder_sizes import chosen_experts_pay
from orchestrator.schema.training import ModelConfig

_ALIGNED_BYTES = 16
"""What `grouped_mm` wants rows of a matrix to be a multiple of."""
_GROUPS_PER_LOOP = 4
"""`grouped_mm` takes 2 us for each expert, chosen or not, a product by itself 8 us (d 64, one thread)."""


def chosen_alone_pay(config: ModelConfig, rows: int, device: torch.device, *, learning: bool) -> bool:
    """Whether to compute the chosen experts of `rows` tokens only, or all experts as one wide SwiGLU.

    On a CPU: what is faster, see `chosen_experts_pay`. On any other device all are computed: how many tokens an expert
    has would have to come to the host.
    """
    return device.type == "cpu" and chosen_experts_pay(config, rows, learning=learning)


def chosen_experts(
    x: Tensor, gates: Tensor, chosen: Tensor, gate_up: Tensor, down: Tensor, *, config: ModelConfig
) -> Tensor:
    """What a feed-forward of experts gives for tokens x (rows, d_model), shared experts among the chosen:
    `RoutedExperts`, or `one_token`. gates (rows, routed experts), chosen (rows, experts_per_token)."""
    shared = config.shared_experts
    every = torch.arange(shared, device=chosen.device).expand(len(chosen), -1)
    mine = F.pad(gates.gather(-1, chosen), (shared, 0), value=1.0).to(x.dtype)
    computed = one_token if len(x) == 1 and not torch.is_grad_enabled() else RoutedExperts.apply
    return computed(x, torch.cat((every, chosen + shared), dim=-1), mine, gate_up, down, config.d_expert)


def one_token(x: Tensor, chosen: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor, d_expert: int) -> Tensor:
    """`RoutedExperts` of a single row, (1, d_model)."""
    experts, width = down.shape[1] // d_expert, x.shape[1]
    both = torch.cat((chosen[0], chosen[0] + experts))
    halves = gate_up.reshape(-1, d_expert * width).index_select(0, both).view(-1, width)
    gate, up = F.linear(x, halves).view(2, -1, d_expert)
    product = F.silu(gate) * up * gates.view(-1, 1)
    return F.linear(product.view(1, -1), down.view(width, -1, d_expert).index_select(1, chosen[0]).view(width, -1))


class Groups:
    """Which of the sorted rows are each group's. counts: (groups,), rows of each, in their order."""

    def __init__(self, counts: Tensor) -> None:
        self._ends = counts.cumsum(0).int()
        self._counts: list[int] = counts.tolist()
        self._few = _GROUPS_PER_LOOP * (len(self._counts) - self._counts.count(0)) < len(self._counts)

    def products(self, x: Tensor, weights: Tensor) -> Tensor:
        """Rows x (rows, in) times the matrix of their group, of weights (groups, in, out): (rows, out)."""
        if self._grouped(x.shape[1], weights.shape[2], x):
            return F.grouped_mm(x, weights, offs=self._ends)
        out = x.new_empty(len(x), weights.shape[2])
        for group, rows in self._slices():
            torch.mm(x[rows], weights[group], out=out[rows])
        return out

    def outer(self, a: Tensor, b: Tensor) -> Tensor:
        """Each group's a^T b (groups, n, m), of rows a (rows, n) and b (rows, m); zero where it has none."""
        if self._grouped(a.shape[1], b.shape[1], a):
            return F.grouped_mm(a.t(), b, offs=self._ends)
        out = a.new_zeros(len(self._counts), a.shape[1], b.shape[1])
        for group, rows in self._slices():
            torch.mm(a[rows].t(), b[rows], out=out[group])
        return out

    def _grouped(self, first: int, second: int, like: Tensor) -> bool:
        aligned = all(width * like.element_size() % _ALIGNED_BYTES == 0 for width in (first, second))
        return aligned and like.dtype != torch.float64 and not self._few

    def _slices(self) -> Iterator[tuple[int, slice]]:
        begin = 0
        for group, count in enumerate(self._counts):
            if count:
                yield group, slice(begin, begin + count)
            begin += count


class RoutedExperts(torch.autograd.Function):
    """The sum of each token's chosen SwiGLUs times their gates, with its gradients written out.

    Args of `apply`: x (rows, d_model), chosen (rows, n) and their gates (rows, n), gate_up (2 x experts x d_expert,
    d_model) and down (d_model, experts x d_expert) of all experts, d_expert.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, chosen: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor, d_expert: int
    ) -> Tensor:
        gate, up, out = _by_expert(gate_up, down, d_expert)
        experts = chosen.flatten()
        order = experts.argsort(stable=True)
        groups = Groups(experts.bincount(minlength=len(out)))
        back = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
        token = order // chosen.shape[1]
        rows, by = x.index_select(0, token), gates.flatten().index_select(0, order)[:, None]
        gate_rows, up_rows = groups.products(rows, gate.transpose(1, 2)), groups.products(rows, up.transpose(1, 2))
        opened = F.silu(gate_rows)
        product = opened * up_rows
        mixed = groups.products(product * by, out.transpose(1, 2)).index_select(0, back)
        ctx.save_for_backward(rows, by, gate_up, down, gate_rows, up_rows, opened, product, token, back)
        ctx.groups, ctx.d_expert, ctx.shape = groups, d_expert, chosen.shape
        return mixed.view(*chosen.shape, -1).sum(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, by, gate_up, down, gate_rows, up_rows, opened, product, token, back = ctx.saved_tensors
        gate, up, out = _by_expert(gate_up, down, ctx.d_expert)
        groups: Groups = ctx.groups
        grad_rows = grad.index_select(0, token)
        through = groups.products(grad_rows, out)
        gates_grad = (through * product).sum(dim=1).index_select(0, back).view(ctx.shape)
        through *= by
        up_grad = through * opened
        gate_grad = torch.ops.aten.silu_backward(through.mul_(up_rows), gate_rows)
        rows_grad = groups.products(gate_grad, gate) + groups.products(up_grad, up)
        x_grad = rows_grad.index_select(0, back).view(*ctx.shape, -1).sum(dim=1)
        gate_up_grad = torch.cat((groups.outer(gate_grad, rows), groups.outer(up_grad, rows))).view_as(gate_up)
        down_grad = groups.outer(grad_rows, product * by).transpose(0, 1).reshape(down.shape)
        return x_grad, None, gates_grad, gate_up_grad, down_grad, None


def _by_expert(gate_up: Tensor, down: Tensor, d_expert: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views of each expert's own: gate and up (experts, d_expert, d_model), down (experts, d_model, d_expert)."""
    gate, up = gate_up.view(2, -1, d_expert, gate_up.shape[1])
    return gate, up, down.view(len(down), -1, d_expert).transpose(0, 1)
