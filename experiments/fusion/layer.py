"""One layer of a stacked decoder: the maths of `experiments.models.decoder.Layer`, members in front.

Heads with keys and values of their own, and dense feed-forwards, go by the blocks whose gradients are written out;
latent attention and all experts at once through autograd, operation by operation. Chosen experts are computed member by
member, as they are alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name the whole field uses
from torch import Tensor

from experiments.fusion.blocks import FeedForward, Norm, Projection, SmallAttention, last_rows, project
from experiments.fusion.routing import StackedRouting
from experiments.models.attention import KVCache, Sight, attend
from experiments.models.mla import down_widths, latent_attend
from experiments.models.moe import gated, route
from experiments.models.routed import chosen_alone_pay, chosen_experts
from orchestrator.schema.training import AttentionKind, FeedForwardKind, ModelConfig


@dataclass(frozen=True, slots=True)
class LayerContext:
    """What all layers of one forward pass share. shape: (members x batch, rows) of the tokens. counted: (members,
    batch x rows), whether a row's routing counts for the balance of experts; None where there are none."""

    config: ModelConfig
    shape: torch.Size
    rotation: Tensor
    sight: Sight
    cache: KVCache | None
    routing: StackedRouting | None
    counted: Tensor | None


def stacked_layer(x: Tensor, weights: Mapping[str, Tensor], prefix: str, index: int, context: LayerContext) -> Tensor:
    """x (M, batch x rows, d_model) after the layer whose weights' names begin with `prefix`; `index`: in the cache."""
    attention = _latent if context.config.attention == AttentionKind.mla else _heads
    x = attention(x, weights, prefix, index, context)
    norm = weights[f"{prefix}feed_forward_norm.weight"]
    gate_up, down = (weights[f"{prefix}feed_forward.{name}.weight"] for name in ("gate_up", "down"))
    if context.config.ffn == FeedForwardKind.dense:
        return FeedForward.apply(x, norm, gate_up, down)
    router = weights[f"{prefix}feed_forward.router.weight"]
    return x + _experts(Norm.apply(x, norm), router, gate_up, down, index, context)


def further_module(
    hidden: Tensor, embedded: Tensor, weights: Mapping[str, Tensor], k: int, context: LayerContext
) -> Tensor:
    """`FurtherToken.forward` of the k-th module: (M, batch x rows, d_model), as `hidden` and `embedded` are."""
    prefix = f"further.{k - 1}."
    normed = (
        Norm.apply(some, weights[f"{prefix}{name}_norm.weight"])
        for some, name in ((hidden, "hidden"), (embedded, "token"))
    )
    joined = project(torch.cat(tuple(normed), dim=-1), weights[f"{prefix}joining.weight"])
    return stacked_layer(joined, weights, f"{prefix}layer.", context.config.layers + k - 1, context)


def _heads(x: Tensor, weights: Mapping[str, Tensor], prefix: str, index: int, context: LayerContext) -> Tensor:
    config, batch_rows = context.config, context.shape
    names = "attention_norm", "attention.qkv", "attention.out"
    norm, qkv, out = (weights[f"{prefix}{name}.weight"] for name in names)
    if context.sight.bias is not None:
        shape = (*batch_rows, config.heads, config.kv_heads)
        return SmallAttention.apply(x, norm, qkv, out, shape, context.rotation, context.sight.bias)
    all_heads = config.heads + 2 * config.kv_heads, config.d_model // config.heads
    heads = Projection.apply(x, norm, qkv).view(*batch_rows, *all_heads)
    mixed = attend(heads, config.kv_heads, context.rotation, context.sight, context.cache, index)
    looking = last_rows(x, batch_rows[1], mixed.shape[1])
    return looking + project(mixed.view(*looking.shape[:2], -1), out)


def _latent(x: Tensor, weights: Mapping[str, Tensor], prefix: str, index: int, context: LayerContext) -> Tensor:
    config, batch_rows = context.config, context.shape
    names = "down", "kv_norm", "key_up", "value_up", "out"
    own = {name: weights[f"{prefix}attention.{name}.weight"] for name in names}
    down = Projection.apply(x, weights[f"{prefix}attention_norm.weight"], own["down"])
    queries, latent, key = down.split(down_widths(config), dim=-1)
    if config.query_rank:
        norm, up = (weights[f"{prefix}attention.{name}.weight"] for name in ("query_norm", "query_up"))
        queries = Projection.apply(queries, norm, up)
    mixed = latent_attend(
        queries.reshape(*batch_rows, config.heads, -1),
        Norm.apply(latent, own["kv_norm"]).view(*batch_rows, -1),
        key.reshape(*batch_rows, -1),
        own["key_up"],
        own["value_up"],
        context.rotation,
        context.sight,
        context.cache,
        index,
    )
    return x + project(mixed.view(*x.shape[:2], -1), own["out"])


def _experts(x: Tensor, router: Tensor, gate_up: Tensor, down: Tensor, index: int, context: LayerContext) -> Tensor:
    config, routing = context.config, context.routing
    assert routing is not None
    routed = route(project(x, router), routing.bias(index), config.experts_per_token)
    if torch.is_grad_enabled() and context.counted is not None:
        routing.note(index, routed, context.counted)
    if chosen_alone_pay(config, x.shape[1], x.device, learning=torch.is_grad_enabled()):
        members = zip(*(values.unbind() for values in (x, routed.gates, routed.chosen, gate_up, down)), strict=True)
        return torch.stack([chosen_experts(*member, config=config) for member in members])
    gate, up = project(x, gate_up).chunk(2, dim=-1)
    return project(gated(F.silu(gate) * up, routed.gates, config.shared_experts), down)
