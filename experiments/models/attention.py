"""Softmax attention over rotated queries and keys, made for many small heads on a CPU as much as for a few large ones.

torch's own kernel pays for each head by itself: on a CPU most of what 512 heads of 10 rows take it is no arithmetic.
Where heads that small are many, scores, softmax and mixing are batched products over all of them instead, with a
backward pass written out where they are learned from; elsewhere, and on a GPU, it is torch's kernel.

Queries leave the rotation scaled by 1 / sqrt(head_dim), so that neither way has to scale scores.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the name the whole field uses
from torch import Tensor
from torch.autograd.function import once_differentiable

from experiments.models.growing import Growing, GrowingRows
from orchestrator.schema.training import AttentionKind, FeedForwardKind, ModelConfig

# Where batched products are faster on a CPU: up to so many scores (rows x keys) a head, from so many heads of the whole
# batch on. Forward alone too: 8,192 heads of 14 rows with a mask take 7.5 ms and torch's kernel 30, 256 of 8 rows by 30
# keys 0.24 and 0.41. A single row, as greedy decoding has, is left to torch's.
SMALL_SCORES_MAX = 40 * 40
SMALL_HEADS_MIN = 64
# Scores of more than so many keys are padded to a multiple of it: a maximum over 31 takes nine times one over 32.
_LANES = 16
_LOG2_E = 1.4426950408889634


class KVCache:
    """What attention keeps of the rows seen so far: per layer a list of tensors, each (batch, ..., rows, width). Keys
    and values (batch, kv_heads, rows, head_dim); or what stands for them, see `experiments.models.mla`.

    A forward pass adds to what is held and changes none of it, and gradients flow through a cache as through any other
    tensor: see `GrowingRows`.
    """

    def __init__(self, layers: int, empty: Callable[[int], Growing] = GrowingRows) -> None:
        """empty: makes what holds one tensor, given how many rows are reserved (0: nobody knows)."""
        self._held: list[list[Growing]] = [[] for _ in range(layers)]
        self._empty, self._reserved = empty, 0

    def reserve(self, rows: int) -> None:
        """Says, before the first of them is there, how many rows there will be: storage is for these, and no more."""
        self._reserved = rows

    def extend(self, layer: int, *new: Tensor) -> list[Tensor]:
        """Adds rows to each tensor of a layer and returns all that it holds now, in the same order."""
        held = self._held[layer]
        if not held:
            held = self._held[layer] = [self._empty(self._reserved) for _ in new]
        return [some.extend(rows) for some, rows in zip(held, new, strict=True)]

    def select(self, batch: Tensor) -> None:
        """Keeps the given batch entries (an index tensor) only."""
        for held in self._held:
            for some in held:
                some.select(batch)

    @property
    def rows(self) -> int:
        """How many rows each batch entry has."""
        return self._held[0][0].rows if self._held[0] else 0

    @property
    def bytes(self) -> int:
        """What the held rows take [bytes]."""
        return sum(some.bytes for held in self._held for some in held)


class RotaryTable:
    """exp(i position theta^(-2k/d)) for each head, that of a query times the scale of the scores; grown on demand.

    No module and no buffer: a module-wide cast to bf16 would ruin the angles.
    """

    def __init__(self, heads: int, kv_heads: int, width: int, theta: float, scale: float) -> None:
        """width: d, the dimensions of a head that are rotated."""
        self._heads, self._kv_heads, self._theta, self._scale = heads, kv_heads, theta, scale
        self._half = width // 2
        self._table = torch.empty(0, dtype=torch.complex64)

    @classmethod
    def of(cls, config: ModelConfig) -> "RotaryTable":
        """That of a decoder's attention: of whole heads or, where keys and values are up-projected from a latent, of
        the part of a query that is rotated, and of the one key that all heads share."""
        width = config.d_model // config.heads
        if config.attention == AttentionKind.mla:
            scale = (width + config.rope_dim) ** -0.5
            return cls(config.heads, 1, config.rope_dim, config.rope_theta, scale)
        return cls(config.heads, config.kv_heads, width, config.rope_theta, width**-0.5)

    def __call__(self, positions: Tensor, limit: int) -> Tensor:
        """(rows or batch x rows, heads + kv_heads, d / 2), complex: one product rotates queries and keys.

        Every position is below `limit`; to look at the largest would make the host wait for the device.
        """
        if self._table.shape[0] < limit or self._table.device != positions.device:
            self._table = self._drawn_up(max(64, 2 * limit)).to(positions.device)
        return self._table.index_select(0, positions.flatten()).unflatten(0, positions.shape)

    def _drawn_up(self, count: int) -> Tensor:
        frequencies = self._theta ** (-torch.arange(self._half, dtype=torch.float64) / self._half)
        angles = torch.outer(torch.arange(count, dtype=torch.float64), frequencies)
        turns = torch.polar(torch.ones_like(angles), angles)[:, None]
        queries = (turns * self._scale).expand(-1, self._heads, -1)
        return torch.cat((queries, turns.expand(-1, self._kv_heads, -1)), dim=1).to(torch.complex64)


class Sight(NamedTuple):
    """Which keys each row of a forward pass may look at, in the form its attention takes; one for all layers.

    mask: as in `Decoder.forward`. bias: where attention goes by batched products, what is added to their scores,
    (1 or batch x kv_heads, heads / kv_heads x rows, keys padded). first: the first row that looks; those before it are
    only looked at, and nothing comes out of attention for them. mask and bias are of the rows from it on.
    """

    mask: Tensor | None
    bias: Tensor | None = None
    first: int = 0

    @classmethod
    def of(cls, mask: Tensor | None, like: Tensor, config: ModelConfig, cached: bool) -> "Sight":
        """For the rows of `like` (batch, rows, width); `cached` if there may be rows before them."""
        batch, rows, _ = like.shape
        heads, kv_heads = config.heads, config.kv_heads
        learned = torch.is_grad_enabled() and not cached and like.dtype == torch.float32 and not like.is_cuda
        if config.attention == AttentionKind.mla or not learned:
            return cls(mask)
        if rows * rows > SMALL_SCORES_MAX or batch * heads < SMALL_HEADS_MIN:
            return cls(mask)
        if mask is None:
            return cls(None, _causal(rows, heads // kv_heads, like.device))
        bias = _padded(_bias(mask))
        if bias.dim() == 2:
            return cls(mask, bias.repeat(heads // kv_heads, 1)[None])
        keys = bias.shape[-1]
        return cls(mask, bias.expand(batch, heads, rows, keys).reshape(batch * kv_heads, -1, keys))

    def of_rows_from(self, first: int, like: Tensor, config: ModelConfig) -> "Sight":
        """Where only the rows of `like` (batch, rows, ...) from `first` on look: what the last layer makes of the
        others is of no use.

        Attention over latents, and experts, whose balance counts all rows, have all of them look.
        """
        if not first or config.attention == AttentionKind.mla or config.ffn == FeedForwardKind.moe:
            return self
        mask, bias, rows = self.mask, self.bias, like.shape[1]
        if mask is not None:
            mask = mask.expand(*mask.shape[:-2], rows, -1)[..., first:, :]
        elif rows - first > 1:
            mask = _lower(rows, like.device)[first:]
        if bias is not None:
            bias = bias.unflatten(1, (-1, rows))[:, :, first:].flatten(1, 2)
        return Sight(mask, bias, first)


@lru_cache(maxsize=64)
def _causal(rows: int, group: int, device: torch.device) -> Tensor:
    """The bias of plain causality for `group` query heads a key head, (1, group x rows, keys padded)."""
    return _padded(torch.full((rows, rows), -torch.inf, device=device).triu_(1)).repeat(group, 1)[None]


@lru_cache(maxsize=64)
def _lower(rows: int, device: torch.device) -> Tensor:
    """Plain causality as a mask (rows, rows)."""
    return torch.ones(rows, rows, dtype=torch.bool, device=device).tril_()


def _bias(mask: Tensor) -> Tensor:
    """What a mask adds to scores."""
    return torch.where(mask, 0.0, -torch.inf)


def _padded(bias: Tensor) -> Tensor:
    """With keys that nobody sees, up to the next number that is a good one."""
    keys = bias.shape[-1]
    return bias if keys <= _LANES else F.pad(bias, (0, -keys % _LANES), value=-torch.inf)


def attend(qkv: Tensor, kv_heads: int, rotation: Tensor, sight: Sight, cache: KVCache | None, layer: int) -> Tensor:
    """Softmax attention without its projections: (batch, rows that look, heads x head_dim).

    qkv: (batch, rows, heads + 2 kv_heads, head_dim), queries first, then keys, then values. rotation: see
    `RotaryTable`. A `cache` is extended by these rows.
    """
    if sight.bias is not None and qkv.dtype == torch.float32:  # autocast may have changed it on the way
        return _SmallAttention.apply(qkv, kv_heads, rotation, sight.bias)
    batch, rows, all_heads, _ = qkv.shape
    heads = all_heads - 2 * kv_heads
    rotated = rotate(qkv[:, :, : heads + kv_heads], rotation).to(qkv.dtype).transpose(1, 2)
    queries, keys = rotated.split((heads, kv_heads), dim=1)
    queries, rows = queries[:, :, sight.first :], rows - sight.first
    values = qkv[:, :, heads + kv_heads :].transpose(1, 2)
    if cache is not None:
        keys, values = cache.extend(layer, keys, values)
    if rows > 1 and not torch.is_grad_enabled() and _small(queries, keys.shape[2]):
        mixed = _mixed(queries, keys, values, sight.mask)
    else:
        mixed = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=sight.mask,
            is_causal=sight.mask is None and rows > 1,
            scale=1.0,
            enable_gqa=heads != kv_heads,
        )
    return mixed.transpose(1, 2).reshape(batch, rows, -1)


def _small(queries: Tensor, keys: int) -> bool:
    """Whether batched products are faster than torch's kernel for queries (batch, heads, rows, head_dim)."""
    batch, heads, rows, _ = queries.shape
    plain = queries.dtype == torch.float32 and not queries.is_cuda
    return plain and rows * keys <= SMALL_SCORES_MAX and batch * heads >= SMALL_HEADS_MIN


def _mixed(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of queries (batch, heads, rows, head_dim) by batched products, without what a gradient needs."""
    batch, heads, rows, head_dim = queries.shape
    kv_heads, count = keys.shape[1:3]
    if mask is None:
        bias = _causal(rows, heads // kv_heads, queries.device)[..., :count]
    else:
        bias = _bias(mask).expand(batch, heads, rows, count).reshape(batch * kv_heads, -1, count)
    keys, values = (some.reshape(batch * kv_heads, count, head_dim) for some in (keys, values))
    weights, inverse = _softmax_parts(bias, queries.reshape(batch * kv_heads, -1, head_dim), keys)
    return _narrow_product(weights, values).mul_(inverse).reshape(batch, heads, rows, head_dim)


def rotate(heads: Tensor, rotation: Tensor) -> Tensor:
    """Neighbours of the last dimension as complex numbers, times `rotation`."""
    pairs = torch.view_as_complex(heads.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2)


class Attended(NamedTuple):
    """What the backward pass of `small_attention` needs. G = heads / kv_heads query heads share a key head.

    queries, mixed: (batch x kv_heads, G x rows that look, head_dim). keys, values: (batch x kv_heads, keys padded,
    head_dim). weights: (batch x kv_heads, G x rows that look, keys padded), the softmax's numerators; inverse: one over
    their sums, (..., G x rows that look, 1).
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    weights: Tensor
    inverse: Tensor
    mixed: Tensor
    rotation: Tensor


def small_attention(qkv: Tensor, kv_heads: int, rotation: Tensor, bias: Tensor) -> tuple[Tensor, Attended]:
    """`attend` by batched products, outside autograd, and what `small_attention_gradient` needs.

    As many rows look as `bias` has, the last ones.
    """
    batch, rows, all_heads, head_dim = qkv.shape
    heads = all_heads - 2 * kv_heads
    looking = bias.shape[1] * kv_heads // heads
    rotated = rotate(qkv[:, :, : heads + kv_heads], rotation)

    def by_key_head(some: Tensor) -> Tensor:
        if bias.shape[-1] == rows:
            return some.transpose(1, 2).reshape(batch * kv_heads, rows, head_dim)
        padded = some.new_zeros(batch, kv_heads, bias.shape[-1], head_dim)
        padded[:, :, :rows] = some.transpose(1, 2)
        return padded.flatten(0, 1)

    queries = rotated[:, rows - looking :, :heads].transpose(1, 2).reshape(batch * kv_heads, -1, head_dim)
    keys, values = by_key_head(rotated[:, :, heads:]), by_key_head(qkv[:, :, heads + kv_heads :])
    weights, inverse = _softmax_parts(bias, queries, keys)
    mixed = _narrow_product(weights, values).mul_(inverse)
    joined = mixed.reshape(batch, heads, looking, head_dim).transpose(1, 2).reshape(batch, looking, -1)
    return joined, Attended(queries, keys, values, weights, inverse, mixed, rotation)


def _softmax_parts(bias: Tensor, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """The softmax's numerators and one over their sums: see `Attended`."""
    # By hand: torch's takes 0.2 µs a row, whatever its length, and rows are short here. To base 2, since torch's exp is
    # several times slower than exp2, most of all where a mask makes it zero.
    weights = torch.baddbmm(bias, queries, keys.transpose(1, 2), alpha=_LOG2_E)
    weights.sub_(weights.amax(dim=-1, keepdim=True)).exp2_()
    return weights, _sum_last(weights).reciprocal_()


def small_attention_gradient(grad: Tensor, seen: Attended, kv_heads: int) -> Tensor:
    """Gradient of `qkv` from that of `small_attention`'s result.

    As in FlashAttention (arXiv:2205.14135, section B.2): sum_j P_ij dP_ij = dO_i . O_i.
    """
    batch, looking, _ = grad.shape
    rows, head_dim = seen.rotation.shape[-3], seen.queries.shape[-1]
    grad = grad.view(batch, looking, -1, head_dim)
    heads = grad.shape[2]
    grads = grad.new_empty(batch, rows, heads + 2 * kv_heads, head_dim)
    grads[:, : rows - looking, :heads] = 0.0

    def put(first: int, count: int, values: Tensor) -> None:
        by_head = values.reshape(batch, count, -1, head_dim)[:, :, :rows]
        grads[:, rows - by_head.shape[2] :, first : first + count] = by_head.transpose(1, 2)

    scaled = grad.transpose(1, 2).reshape(seen.mixed.shape) * seen.inverse
    put(heads + kv_heads, kv_heads, _narrow_product(seen.weights.transpose(1, 2), scaled))
    own = _sum_last(scaled * seen.mixed)
    scores = torch.baddbmm(own, scaled, seen.values.transpose(1, 2), beta=-1).mul_(seen.weights)
    put(0, heads, _narrow_product(scores, seen.keys))
    put(heads, kv_heads, _narrow_product(scores.transpose(1, 2), seen.queries))
    turned = torch.view_as_complex(grads[:, :, : heads + kv_heads].unflatten(-1, (-1, 2)))
    turned.mul_(seen.rotation.conj_physical())
    return grads


def _sum_last(x: Tensor) -> Tensor:
    """Sum over the last dimension, kept, as a product: a reduction takes twice as long where it is short."""
    return torch.mm(x.reshape(-1, x.shape[-1]), x.new_ones(x.shape[-1], 1)).view(*x.shape[:-1], 1)


def _narrow_product(left: Tensor, right: Tensor) -> Tensor:
    """`torch.bmm(left, right)`, to few columns. Below 16 of them MKL is two to four times faster at the transpose, if
    that is long enough."""
    if right.shape[2] < _LANES < left.shape[1]:
        return torch.bmm(right.transpose(1, 2), left.transpose(1, 2)).transpose(1, 2)
    return torch.bmm(left, right)


class _SmallAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, kv_heads: int, rotation: Tensor, bias: Tensor) -> Tensor:
        mixed, seen = small_attention(qkv, kv_heads, rotation, bias)
        ctx.save_for_backward(*seen)
        ctx.kv_heads = kv_heads
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return small_attention_gradient(grad, Attended(*ctx.saved_tensors), ctx.kv_heads), None, None, None
