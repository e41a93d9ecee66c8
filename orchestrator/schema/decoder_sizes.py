"""What follows from a decoder's config alone: how many parameters it has, and what its cache holds of a token."""

from dataclasses import replace

from orchestrator.schema.training import (
    AttentionKind,
    FeedForwardKind,
    ModelConfig,
    PredictionConfig,
    PredictionKind,
)


def parameter_count(model: ModelConfig, vocabulary: int) -> int:
    """All parameters: embeddings, the last norm, and per layer attention, feed-forward and two norms; a module for a
    further token has a layer, three norms and what joins its two inputs."""
    embeddings = vocabulary * model.d_model * (1 if model.tie_embeddings else 2)
    further = 0
    if model.prediction.kind == PredictionKind.multi_token:
        further = model.prediction.depth * (_layer(model) + 3 * model.d_model + 2 * model.d_model**2)
    return embeddings + model.layers * _layer(model) + model.d_model + further


def active_parameter_count(model: ModelConfig, vocabulary: int) -> int:
    """Those that make the next token of another: of routed experts the selected ones, no module for further tokens."""
    alone = replace(model, prediction=PredictionConfig())
    return parameter_count(alone, vocabulary) - model.layers * idle_expert_parameters(model)


def idle_expert_parameters(model: ModelConfig) -> int:
    """Parameters of a layer's routed experts that a token does not select."""
    return _feed_forward(model, model.experts) - _feed_forward(model, model.experts_per_token)


def chosen_experts_pay(model: ModelConfig, rows: int, *, learning: bool) -> bool:
    """Whether one CPU thread computes the chosen experts of `rows` tokens faster by themselves than all experts as one
    wide SwiGLU: whether what is left out takes longer than sorting tokens by expert does, or for a single token
    gathering the weights of its own.

    Both sides are in multiply-adds of a wide product (0.02 ns); measured by `python -m tests.bench.experts`.
    """
    experts, active = model.shared_experts + model.experts, model.shared_experts + model.experts_per_token
    each = 3 * model.d_model * model.d_expert
    if rows == 1 and not learning:
        return (_READ * (experts - active) - _GATHER * active) * each > _GATHERING
    used = min(experts, rows * active)
    saved = (rows * (experts - active) + _READ * (experts - used)) * each
    return saved > _SORTING + _EXPERT * used + (_GRADIENT * experts * each if learning else 0)


_READ = 8
"""A weight that is read for one token takes as long as so many products of others."""
_SORTING, _EXPERT = 12_000_000, 300_000
"""What a pass takes beyond its products, and for each expert that it uses."""
_GRADIENT = 40
"""What it takes to put a weight's gradient in its place."""
_GATHERING, _GATHER = 2_200_000, 40
"""What a single token takes beyond its products, and for each weight that is gathered for it."""


def cached_width(model: ModelConfig) -> int:
    """Numbers that a layer's cache holds of a token."""
    if model.attention == AttentionKind.mla:
        return latent_width(model.kv_rank, model.rope_dim)
    return grouped_width(model.kv_heads, model.d_model // model.heads)


def grouped_width(kv_heads: int, head_dim: int) -> int:
    """A key and a value for each of `kv_heads` heads (arXiv:2305.13245); `cached_width` of such attention."""
    return 2 * kv_heads * head_dim


def latent_width(kv_rank: int, rope_dim: int) -> int:
    """The latent and the shared rotated key (arXiv:2405.04434, section 2.1.4); `cached_width` of such attention."""
    return kv_rank + rope_dim


def kv_bytes_per_token(width: int, layers: int, bits: float, scale_bytes: float = 0) -> float:
    """What a cache takes of a token [bytes]: in each layer `width` numbers of `bits`, and `scale_bytes` for the scales
    that codes of few bits come with."""
    return layers * (width * bits / 8 + scale_bytes)


def _layer(model: ModelConfig) -> int:
    return _attention(model) + _feed_forward(model, model.experts) + 2 * model.d_model


def _attention(model: ModelConfig) -> int:
    head_dim = model.d_model // model.heads
    out = model.heads * head_dim * model.d_model
    if model.attention == AttentionKind.heads:
        return model.d_model * (model.heads + 2 * model.kv_heads) * head_dim + out
    queries = model.heads * (head_dim + model.rope_dim)
    down = model.d_model * ((model.query_rank or queries) + model.kv_rank + model.rope_dim)
    query_up = model.query_rank * (1 + queries)  # with the norm's
    return down + query_up + model.kv_rank * (1 + 2 * model.heads * head_dim) + out


def _feed_forward(model: ModelConfig, routed: int) -> int:
    """With so many of the routed experts."""
    if model.ffn == FeedForwardKind.dense:
        return 3 * model.d_model * model.d_ff
    experts = 3 * model.d_model * model.d_expert * (model.shared_experts + routed)
    return experts + model.d_model * model.experts
