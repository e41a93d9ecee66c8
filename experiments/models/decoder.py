"""A compact decoder-only transformer: RMSNorm, rotary positions; attention with key/value heads or with a latent in
their place; a SwiGLU or a mixture of them.

Made for small models on one CPU thread as much as for a GPU: few, large operations (fused query/key/value and fused
gate/up projections, one rotation for queries and keys), and no attention mask where causality says enough.

Sources: pre-norm RMSNorm (arXiv:1910.07467), rotary embedding in its original pairing of neighbours (arXiv:2104.09864),
SwiGLU (arXiv:2002.05202), multi-query and grouped-query attention (arXiv:1911.02150, arXiv:2305.13245); those of
`mla.py` and `moe.py` stand there.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 - the name the whole field uses
from torch import Tensor, nn

from experiments.models.attention import KVCache, RotaryTable, Sight, attend
from experiments.models.mla import LatentAttention
from experiments.models.moe import MixtureOfExperts
from experiments.models.norm import RMSNorm
from orchestrator.schema.training import AttentionKind, FeedForwardKind, ModelConfig, model_config

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "model.json"
PAD_ID = 0
"""`CharTokenizer`'s; a test holds the two together. Its rows don't count where experts are balanced."""
_EMBEDDING_STD = 0.02


class Attention(nn.Module):
    """Softmax attention with `kv_heads` key/value heads for `heads` query heads."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.kv_heads = config.heads, config.kv_heads
        self.head_dim = config.d_model // config.heads
        self.qkv = nn.Linear(config.d_model, (self.heads + 2 * self.kv_heads) * self.head_dim, bias=False)
        self.out = nn.Linear(self.heads * self.head_dim, config.d_model, bias=False)

    def forward(self, x: Tensor, rotation: Tensor, sight: Sight, cache: KVCache | None) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (self.heads + 2 * self.kv_heads, self.head_dim))
        return self.out(attend(qkv, self.kv_heads, rotation, sight, cache, self.layer))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), gate and up as one projection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.d_model, 2 * config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor, counted: Tensor | None = None) -> Tensor:
        """`counted` is for experts."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Layer(nn.Module):
    """Pre-norm residual block. What comes out are the rows that look, see `Sight`."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model)
        latent, mixture = config.attention == AttentionKind.mla, config.ffn == FeedForwardKind.moe
        self.attention = LatentAttention(config, index) if latent else Attention(config, index)
        self.feed_forward_norm = RMSNorm(config.d_model)
        self.feed_forward = MixtureOfExperts(config) if mixture else SwiGLU(config)

    def forward(
        self, x: Tensor, rotation: Tensor, sight: Sight, cache: KVCache | None, counted: Tensor | None = None
    ) -> Tensor:
        x = x[:, sight.first :] + self.attention(self.attention_norm(x), rotation, sight, cache)
        return x + self.feed_forward(self.feed_forward_norm(x), counted)


class Decoder(nn.Module):
    """Token ids in, next-token logits out. Weights are drawn from `generator` (torch's own when None)."""

    def __init__(self, config: ModelConfig, vocab_size: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.layers))
        self.norm = RMSNorm(config.d_model)
        self.head = None if config.tie_embeddings else nn.Linear(config.d_model, vocab_size, bias=False)
        self._rotation = RotaryTable.of(config)
        if not self.embedding.weight.is_meta:
            self._draw_weights(generator)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        logits_from: int = 0,
    ) -> Tensor:
        """Logits (batch, rows - logits_from, vocab) for `tokens` (batch, rows).

        positions: (rows,) or (batch, rows), none larger than the number of rows before it. mask: bool, True where a
        query row may look, broadcastable to (batch, heads, rows, cached rows + rows); None means causal, or everything
        for a single row. A `cache` is extended by these rows. `logits_from` is the first row whose logits are wanted.
        """
        return self.logits(self.hidden(tokens, positions, mask, cache, logits_from))

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        rows_from: int = 0,
    ) -> Tensor:
        """What the head reads, (batch, rows - rows_from, d_model), after the last norm; arguments as in `forward`."""
        keys = tokens.shape[1] + (0 if cache is None else cache.rows)
        rotation = self._rotation(positions, keys)
        x = self.embedding(tokens)
        sight = Sight.of(mask, x, self.config, cached=cache is not None)
        counted = tokens != PAD_ID if self.config.ffn == FeedForwardKind.moe else None
        for layer in self.layers[:-1]:
            x = layer(x, rotation, sight, cache, counted)
        sight = sight.of_rows_from(rows_from, tokens, self.config)
        x = self.layers[-1](x, rotation, sight, cache, counted)
        return self.norm(x[:, rows_from - sight.first :])

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocab) of `hidden`'s rows (..., d_model)."""
        return F.linear(hidden, self.embedding.weight) if self.head is None else self.head(hidden)

    def new_cache(self) -> KVCache:
        """An empty cache for this model."""
        return KVCache(self.config.layers)

    @property
    def experts(self) -> list[MixtureOfExperts]:
        """The feed-forwards whose experts are to be balanced; none in a dense decoder."""
        if self.config.ffn == FeedForwardKind.dense:
            return []
        return [module for module in self.modules() if isinstance(module, MixtureOfExperts)]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device

    @torch.no_grad()
    def _draw_weights(self, generator: torch.Generator | None) -> None:
        """Small embeddings, projections of variance 1 / d_model, zeros where a layer writes into the residual stream.

        Every layer starts as the identity. At this size the scale decides whether a few hundred examples are learned
        by rule or by heart: from 400 sums of two-digit numbers (d 64, 2 layers, lr 2e-3) these weights reach 25 % on
        unseen sums within 140 to 380 steps; variance 1 / fan-in everywhere was at 5 % after 600.
        """
        for name, weight in self.named_parameters():
            if weight.dim() < 2:
                continue
            if name.endswith(("attention.out.weight", "feed_forward.down.weight")):
                weight.zero_()
            elif name.startswith(("embedding.", "head.")):
                weight.normal_(0.0, _EMBEDDING_STD, generator=generator)
            else:
                weight.normal_(0.0, self.config.d_model**-0.5, generator=generator)


def save_decoder(state: dict[str, Tensor], config: ModelConfig, vocab_size: int, folder: Path) -> None:
    """Writes weights (`model.safetensors`) and shape (`model.json`) into an existing folder."""
    from safetensors.torch import save_file  # late, so that the model itself needs torch only

    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, folder / WEIGHTS_FILE)
    shape = {"model": asdict(config), "vocab_size": vocab_size}
    (folder / CONFIG_FILE).write_text(json.dumps(shape, indent=2) + "\n")


def load_decoder(folder: Path) -> Decoder:
    """The decoder that `save_decoder` wrote, in its saved precision. Raises FileNotFoundError when there is none."""
    from safetensors.torch import load_file

    shape = json.loads((folder / CONFIG_FILE).read_text())
    state = load_file(folder / WEIGHTS_FILE)
    with torch.device("meta"):
        decoder = Decoder(cast(ModelConfig, model_config(shape["model"])), shape["vocab_size"])
    decoder.load_state_dict(state, assign=True)
    return decoder
