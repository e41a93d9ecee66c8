"""Multi-head latent attention: keys and values of all heads are projected up from one latent a token.

DeepSeek-V2 (arXiv:2405.04434, section 2.1). Of a row h: a latent c = norm(W_DKV h) of `kv_rank` numbers, and one
rotated key of `rope_dim` numbers that all heads share. A head's key is [W_UK c | rotated key], its value W_UV c, its
query has a part without position and a rotated one. A cache holds the latent and the rotated key only.

With rows before it in the cache, attention is absorbed: q . (W_UK c) = (W_UK^T q) . c, so queries and outputs go
through the up-projections, not every cached row. Elsewhere keys and values are expanded: less work where rows are many.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - the name the whole field uses
from torch import Tensor, nn

from experiments.models.attention import KVCache, Sight, rotate
from experiments.models.norm import RMSNorm
from orchestrator.schema.training import ModelConfig


class LatentAttention(nn.Module):
    """`down`: see `down_widths`. Queries are what it gives or, with `query_rank`, projected up from it."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.widths = down_widths(config)
        self.heads, head_dim = config.heads, config.d_model // config.heads
        queries = config.heads * (head_dim + config.rope_dim)
        self.down = nn.Linear(config.d_model, sum(self.widths), bias=False)
        self.query_norm = RMSNorm(config.query_rank) if config.query_rank else None
        self.query_up = nn.Linear(config.query_rank, queries, bias=False) if config.query_rank else None
        self.kv_norm = RMSNorm(config.kv_rank)
        self.key_up = nn.Linear(config.kv_rank, config.heads * head_dim, bias=False)
        self.value_up = nn.Linear(config.kv_rank, config.heads * head_dim, bias=False)
        self.out = nn.Linear(config.heads * head_dim, config.d_model, bias=False)

    def forward(self, x: Tensor, rotation: Tensor, sight: Sight, cache: KVCache | None) -> Tensor:
        queries, latent, key = self.down(x).split(self.widths, dim=-1)
        if self.query_norm is not None and self.query_up is not None:
            queries = self.query_up(self.query_norm(queries))
        ups = self.key_up.weight[None], self.value_up.weight[None]
        queries = queries.unflatten(-1, (self.heads, -1))
        return self.out(latent_attend(queries, self.kv_norm(latent), key, *ups, rotation, sight, cache, self.layer))


def down_widths(config: ModelConfig) -> tuple[int, int, int]:
    """What `down` gives of a row: queries or their latent, the latent of keys and values, the shared key."""
    queries = config.heads * (config.d_model // config.heads + config.rope_dim)
    return config.query_rank or queries, config.kv_rank, config.rope_dim


def latent_attend(
    queries: Tensor,
    latent: Tensor,
    key: Tensor,
    key_up: Tensor,
    value_up: Tensor,
    rotation: Tensor,
    sight: Sight,
    cache: KVCache | None,
    layer: int,
) -> Tensor:
    """Softmax attention without its projections from and to the width of the model: (batch, rows, heads x head_dim).

    Args:
        queries: (batch, rows, heads, head_dim + rope_dim), the part that is to be rotated last.
        latent: (batch, rows, kv_rank), normalised. key: (batch, rows, rope_dim), to be rotated.
        key_up, value_up: (M, heads x head_dim, kv_rank); batch is M members' one after the other.
        rotation: see `RotaryTable`. sight: its mask counts. cache: is extended by these rows.
    """
    rows, heads, rope_dim = queries.shape[1], queries.shape[2], key.shape[-1]
    head_dim = queries.shape[3] - rope_dim
    plain, turning = queries.split((head_dim, rope_dim), dim=-1)
    turned = rotate(torch.cat((turning, key[:, :, None]), dim=2), rotation).to(queries.dtype)
    turning, key = turned[:, :, :heads], turned[:, :, heads]
    plain = plain * queries.shape[3] ** -0.5  # as the rotation does with its part
    if cache is not None:
        latent, key = cache.extend(layer, latent, key)
    if latent.shape[1] > rows:
        return _absorbed(plain, turning, latent, key, key_up, value_up, sight.mask)
    return _expanded(plain, turning, latent, key, key_up, value_up, sight.mask)


def _expanded(
    plain: Tensor, turning: Tensor, latent: Tensor, key: Tensor, key_up: Tensor, value_up: Tensor, mask: Tensor | None
) -> Tensor:
    """With each head's keys and values of all rows; the rows look at each other only."""
    batch, rows, heads, head_dim = plain.shape
    by_member = latent.reshape(key_up.shape[0], -1, latent.shape[-1])
    keys, values = (
        torch.bmm(by_member, up.transpose(1, 2)).view(batch, rows, heads, head_dim).transpose(1, 2)
        for up in (key_up, value_up)
    )
    shared = key[:, None].expand(-1, heads, -1, -1)
    mixed = F.scaled_dot_product_attention(
        torch.cat((plain, turning), dim=-1).transpose(1, 2),
        torch.cat((keys, shared), dim=-1),
        values,
        attn_mask=mask,
        is_causal=mask is None and rows > 1,
        scale=1.0,
    )
    return mixed.transpose(1, 2).reshape(batch, rows, -1)


def _absorbed(
    plain: Tensor, turning: Tensor, latent: Tensor, key: Tensor, key_up: Tensor, value_up: Tensor, mask: Tensor | None
) -> Tensor:
    """With latents in place of keys and values: all heads look at the same, as in multi-query attention."""
    batch, rows, heads, head_dim = plain.shape
    members, keys, kv_rank = key_up.shape[0], latent.shape[1], latent.shape[2]
    by_head = key_up.view(members, heads, head_dim, kv_rank)
    inward = torch.einsum("mbrhd,mhdk->mbhrk", plain.view(members, -1, rows, heads, head_dim), by_head)
    turning = turning.transpose(1, 2).reshape(batch, heads * rows, -1)
    scores = torch.bmm(inward.reshape(batch, heads * rows, kv_rank), latent.transpose(1, 2))
    scores = torch.baddbmm(scores, turning, key.transpose(1, 2)).view(batch, heads, rows, keys)
    if mask is None and rows > 1:
        mask = torch.ones(rows, keys, dtype=torch.bool, device=scores.device).tril(keys - rows)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(scores.dtype)
    mixed = torch.bmm(weights.view(batch, heads * rows, keys), latent)
    by_head = value_up.view(members, heads, head_dim, kv_rank)
    outward = torch.einsum("mbhrk,mhdk->mbrhd", mixed.view(members, -1, heads, rows, kv_rank), by_head)
    return outward.reshape(batch, rows, -1)
