"""The blocks of a stacked decoder with their gradients written out: each is one node of autograd's graph.

M members' rows are (M, rows, width), and every weight has the members in front. The maths is that of
`experiments.models.decoder`: a residual block is x + f(normalised x). Written out, since at a small model's size
autograd's own nodes, and the copies between them, take as long as the arithmetic.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the name the whole field uses
from torch import Tensor
from torch.autograd.function import once_differentiable

from experiments.models.attention import Attended, small_attention, small_attention_gradient
from experiments.models.norm import NORM_EPS


class Normal(NamedTuple):
    """x over its root mean square, and one over that, (M, rows, 1): what RMSNorm's gradient needs."""

    unit: Tensor
    inverse: Tensor


def normalise(x: Tensor, weight: Tensor) -> tuple[Tensor, Normal]:
    """RMSNorm of x (M, rows, width) with each member's own weight (M, width); in the precision of x."""
    wide = x.float()
    mean_square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1])
    inverse = mean_square.add_(NORM_EPS).rsqrt_()
    unit = wide * inverse
    return (unit * weight[:, None]).to(x.dtype), Normal(unit, inverse)


def normalise_gradient(grad: Tensor, normal: Normal, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the weight from that of `normalise`'s result.

    dx = (w g - u mean(w g u)) / rms with u = x / rms (arXiv:1910.07467, eq. 4, by the product rule).
    """
    wide, wide_weight = grad.float(), weight.float()
    product = wide * normal.unit
    mean = torch.bmm(product, (wide_weight / -weight.shape[1]).unsqueeze(2))
    through = torch.addcmul(wide * wide_weight[:, None], normal.unit, mean).mul_(normal.inverse)
    return through.to(grad.dtype), product.sum(dim=1).to(weight.dtype)


def project(x: Tensor, weight: Tensor) -> Tensor:
    """x (M, rows, in) times each member's own weight (M, out, in)."""
    return torch.bmm(x, weight.transpose(1, 2))


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """Gradient (M, out, in) of `project`'s weight."""
    return torch.bmm(grad.transpose(1, 2), x)


def last_rows(x: Tensor, rows: int, count: int) -> Tensor:
    """The last `count` of `rows` rows of each sequence in x (M, batch x rows, width): (M, batch x count, width)."""
    if count == rows:
        return x
    return x.unflatten(1, (-1, rows))[:, :, rows - count :].flatten(1, 2)


class Norm(torch.autograd.Function):
    """x (M, rows, width) normalised, by each member's own weight (M, width)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        normalised, normal = normalise(x, weight)
        ctx.save_for_backward(*normal, weight)
        return normalised

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        unit, inverse, weight = ctx.saved_tensors
        return normalise_gradient(grad, Normal(unit, inverse), weight)


class Projection(torch.autograd.Function):
    """x normalised, then projected: (M, rows, out). For the head."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Tensor, weight: Tensor) -> Tensor:
        normalised, normal = normalise(x, norm)
        ctx.save_for_backward(normalised, *normal, norm, weight)
        return project(normalised, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        normalised, unit, inverse, norm, weight = ctx.saved_tensors
        through, norm_grad = normalise_gradient(torch.bmm(grad, weight), Normal(unit, inverse), norm)
        return through, norm_grad, weight_gradient(grad, normalised)


class FeedForward(torch.autograd.Function):
    """x + down(silu(gate(n)) * up(n)) with n = normalised x; gate and up are one weight (M, 2 d_ff, width)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        normalised, normal = normalise(x, norm)
        both = project(normalised, gate_up)
        gate, up = both.chunk(2, dim=-1)
        opened = F.silu(gate)
        product = opened * up
        ctx.save_for_backward(normalised, *normal, norm, gate_up, down, both, opened, product)
        return project(product, down).add_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        normalised, unit, inverse, norm, gate_up, down, both, opened, product = ctx.saved_tensors
        gate, up = both.chunk(2, dim=-1)
        through = torch.bmm(grad, down)
        both_grad = torch.empty_like(both)
        gate_grad, up_grad = both_grad.chunk(2, dim=-1)
        torch.mul(through, opened, out=up_grad)
        torch.ops.aten.silu_backward.grad_input(through.mul_(up), gate, grad_input=gate_grad)
        x_grad, norm_grad = normalise_gradient(torch.bmm(both_grad, gate_up), Normal(unit, inverse), norm)
        weights = weight_gradient(both_grad, normalised), weight_gradient(grad, product)
        return x_grad.add_(grad), norm_grad, *weights


class SmallAttention(torch.autograd.Function):
    """x + out(attention(qkv(normalised x))) where attention goes by batched products: of the rows that look.

    shape: batch of all members, rows, heads, kv_heads. rotation and bias: see `small_attention`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm: Tensor,
        qkv: Tensor,
        out: Tensor,
        shape: tuple[int, int, int, int],
        rotation: Tensor,
        bias: Tensor,
    ) -> Tensor:
        batch, rows, heads, kv_heads = shape
        normalised, normal = normalise(x, norm)
        projected = project(normalised, qkv).view(batch, rows, heads + 2 * kv_heads, -1)
        mixed, seen = small_attention(projected, kv_heads, rotation, bias)
        joined, looking = mixed.reshape(len(x), -1, mixed.shape[2]), mixed.shape[1]
        ctx.save_for_backward(normalised, *normal, norm, qkv, out, joined, *seen)
        ctx.shape = shape
        return project(joined, out).add_(last_rows(x, rows, looking))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        normalised, unit, inverse, norm, qkv, out, joined, *seen = ctx.saved_tensors
        batch, rows, _, kv_heads = ctx.shape
        mixed_grad = torch.bmm(grad, out).view(batch, -1, joined.shape[2])
        heads_grad = small_attention_gradient(mixed_grad, Attended(*seen), kv_heads).view(*unit.shape[:2], -1)
        x_grad, norm_grad = normalise_gradient(torch.bmm(heads_grad, qkv), Normal(unit, inverse), norm)
        weights = weight_gradient(heads_grad, normalised), weight_gradient(grad, joined)
        looking = grad.view(batch, -1, grad.shape[2])
        x_grad.view(batch, rows, -1)[:, rows - looking.shape[1] :].add_(looking)
        return x_grad, norm_grad, *weights, None, None, None
