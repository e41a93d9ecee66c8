"""The weights of a transformer of the common kind, whoever made it: what `experiments.rollout.continuous` decodes with.

The common kind: pre-norm RMSNorm, rotary positions, softmax attention with keys and values of its own or shared between
heads, SwiGLU. That is a `Decoder` with such layers, and Hugging Face's Llama, Mistral and Qwen2.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from experiments.models.attention import KVCache
from experiments.models.decoder import Attention, Decoder, SwiGLU
from experiments.models.hf import HfModel
from experiments.models.norm import NORM_EPS

HF_FAMILIES = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"})
_FIXED_ROTATIONS = frozenset({"default", "linear", "llama3", "yarn"})
"""Kinds of rotary positions whose frequencies don't depend on how long a sequence is."""


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Of one layer. qkv ((heads + 2 kv_heads) x head_dim, d): queries, keys, values, rotated in pairs of neighbours;
    qkv_bias: the same rows or None. gate_up (2 d_ff, d)."""

    attention_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    out: Tensor
    feed_forward_norm: Tensor
    gate_up: Tensor
    down: Tensor


@dataclass(frozen=True, slots=True)
class PlainWeights:
    """embedding, head: (vocab, d). frequencies (head_dim / 2,): radians a position; rotated keys and queries are
    `rotation_scale` times as long. eps: of all norms."""

    embedding: Tensor
    layers: tuple[LayerWeights, ...]
    norm: Tensor
    head: Tensor
    heads: int
    kv_heads: int
    head_dim: int
    frequencies: Tensor
    rotation_scale: float
    eps: float


def plain_weights(model: object) -> PlainWeights | None:
    """Those of a model of the common kind, else None. A `Decoder`'s are its own tensors; of another model they are
    copied, so ask again after each change of the weights."""
    if isinstance(model, Decoder):
        return _of_decoder(model)
    if isinstance(model, HfModel):
        return _of_hugging_face(model.model)
    return None


def _of_decoder(model: Decoder) -> PlainWeights | None:
    config, layers = model.config, []
    layer: Any
    for layer in model.layers:
        attention, feed_forward = layer.attention, layer.feed_forward
        if type(attention) is not Attention or type(feed_forward) is not SwiGLU:
            return None
        projections = (attention.qkv, attention.out, feed_forward.gate_up, feed_forward.down)
        if not all(map(_is_plain, projections)):
            return None
        qkv, out, gate_up, down = (projection.weight for projection in projections)
        norms = layer.attention_norm.weight, layer.feed_forward_norm.weight
        layers.append(LayerWeights(norms[0], qkv, None, out, norms[1], gate_up, down))
    if type(model.new_cache()) is not KVCache or not (model.head is None or _is_plain(model.head)):
        return None
    half = config.d_model // config.heads // 2
    return PlainWeights(
        embedding=model.embedding.weight,
        layers=tuple(layers),
        norm=model.norm.weight,
        head=model.embedding.weight if model.head is None else model.head.weight,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=2 * half,
        frequencies=config.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half),
        rotation_scale=1.0,
        eps=NORM_EPS,
    )


def _of_hugging_face(model: Any) -> PlainWeights | None:
    config = model.config
    if type(model).__name__ not in HF_FAMILIES or config.hidden_act != "silu":
        return None
    rotary = model.model.rotary_emb
    if rotary.rope_type not in _FIXED_ROTATIONS or getattr(config, "attention_bias", False):
        return None
    layers = []
    heads, kv_heads, head_dim = config.num_attention_heads, config.num_key_value_heads, 2 * len(rotary.inv_freq)
    if head_dim != model.model.layers[0].self_attn.head_dim:
        return None
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        inward = attention.q_proj, attention.k_proj, attention.v_proj
        if not all(map(_is_plain, (*inward, attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj))):
            return None
        counts = (heads, kv_heads, 0)
        biases = [None if p.bias is None else _neighbours(p.bias, n) for p, n in zip(inward, counts, strict=True)]
        layers.append(
            LayerWeights(
                attention_norm=layer.input_layernorm.weight,
                qkv=torch.cat([_neighbours(p.weight, n) for p, n in zip(inward, counts, strict=True)]),
                qkv_bias=None if biases[0] is None else torch.cat([bias for bias in biases if bias is not None]),
                out=attention.o_proj.weight,
                feed_forward_norm=layer.post_attention_layernorm.weight,
                gate_up=torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)),
                down=mlp.down_proj.weight,
            )
        )
    return PlainWeights(
        embedding=model.model.embed_tokens.weight,
        layers=tuple(layers),
        norm=model.model.norm.weight,
        head=model.lm_head.weight,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        frequencies=rotary.inv_freq.double(),
        rotation_scale=float(rotary.attention_scaling),
        eps=config.rms_norm_eps,
    )


def _is_plain(layer: nn.Module) -> bool:
    """Whether a projection is what it seems: not quantized, no adapter around it."""
    return type(layer) is nn.Linear and type(layer.weight) is nn.Parameter


def _neighbours(rows: Tensor, heads: int) -> Tensor:
    """Rows of `heads` heads that are rotated as (i, i + head_dim / 2), so that they are rotated as (2 i, 2 i + 1)."""
    if heads == 0:
        return rows
    halves = rows.unflatten(0, (heads, 2, -1))
    return halves.transpose(1, 2).flatten(0, 2)
