"""Many decoders of one shape as one: the maths of `experiments.models.decoder` over stacked weights.

Every projection is one batched matrix product over the members; rotation and attention know no weights and take members
as more batch. Batches are flat, one member's after the other's: (members x batch, rows). So whatever calls a `Decoder`
(`completion_logits`, `generate`) calls a stack in the same way. The results are those of M separate decoders, to
rounding.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the name the whole field uses
from torch import Tensor, nn

from experiments.fusion.blocks import FeedForward, Projection, SmallAttention, project
from experiments.fusion.stack import StackLayout, pack_all
from experiments.models.attention import KVCache, RotaryTable, Sight, attend
from experiments.models.decoder import Decoder
from orchestrator.schema.training import ModelConfig


class StackedDecoder(nn.Module):
    """Token ids of all members in, next-token logits out. `weights` (M, N) is its only parameter, in fp32.

    With a `compute_dtype` other than fp32 the weights are cast once a forward pass, and gradients arrive in fp32.
    """

    def __init__(
        self, config: ModelConfig, vocab_size: int, rows: Tensor, compute_dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.config, self.vocab_size, self.compute_dtype = config, vocab_size, compute_dtype
        self.layout = StackLayout.of(config, vocab_size)
        if rows.dim() != 2 or rows.shape[1] != self.layout.row_size:
            raise ValueError(f"rows are {tuple(rows.shape)}; members of this shape have {self.layout.row_size} weights")
        self.weights = nn.Parameter(rows.float())
        self._rotation = RotaryTable(config)

    @classmethod
    def of(cls, decoders: Sequence[Decoder], compute_dtype: torch.dtype = torch.float32) -> "StackedDecoder":
        """A stack of decoders of one shape, on the device of the first."""
        first = decoders[0]
        layout = StackLayout.of(first.config, first.vocab_size)
        rows = pack_all(layout, [decoder.state_dict() for decoder in decoders])
        return cls(first.config, first.vocab_size, rows, compute_dtype)

    @classmethod
    def empty(cls, config: ModelConfig, vocab_size: int) -> "StackedDecoder":
        """A stack that waits for its first member, on the CPU."""
        return cls(config, vocab_size, torch.empty(0, StackLayout.of(config, vocab_size).row_size))

    @property
    def members(self) -> int:
        """How many members the stack has."""
        return self.weights.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weights.device

    def new_cache(self) -> KVCache:
        """An empty cache for all members."""
        return KVCache(self.config.layers)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        logits_from: int = 0,
    ) -> Tensor:
        """Logits (members x batch, rows - logits_from, vocab); see `Decoder.forward`, batch being members x batch."""
        config, members = self.config, self.members
        keys = tokens.shape[1] + (0 if cache is None else cache.rows)
        rotation = self._rotation(positions, keys)
        weights = self.weights if self.compute_dtype == torch.float32 else self.weights.to(self.compute_dtype)
        embedding, *layers, norm, head = self._ordered(self.layout.pieces(weights))
        x = self._embed(embedding, tokens)
        sight = Sight.of(mask, x, config.heads, config.kv_heads, cached=cache is not None)
        shape = (*tokens.shape, config.heads, config.kv_heads)
        all_heads = config.heads + 2 * config.kv_heads, config.d_model // config.heads
        x = x.view(members, -1, config.d_model)
        for index in range(config.layers):
            attention_norm, qkv, out, feed_forward_norm, gate_up, down = layers[6 * index : 6 * index + 6]
            if sight.bias is not None:
                x = SmallAttention.apply(x, attention_norm, qkv, out, shape, rotation, sight.bias)
            else:
                heads = Projection.apply(x, attention_norm, qkv).view(*tokens.shape, *all_heads)
                mixed = attend(heads, config.kv_heads, rotation, sight, cache, index)
                x = x + project(mixed.view(members, x.shape[1], -1), out)
            x = FeedForward.apply(x, feed_forward_norm, gate_up, down)
        x = x.view(*tokens.shape, -1)[:, logits_from:]
        logits = Projection.apply(x.reshape(members, -1, config.d_model), norm, head)
        return logits.view(*x.shape[:2], -1)

    def decoder(self, member: int) -> Decoder:
        """An ordinary decoder with a copy of one member's weights."""
        with torch.device("meta"):
            decoder = Decoder(self.config, self.vocab_size)
        state = {name: weight.clone() for name, weight in self.layout.unpack(self.weights.detach()[member]).items()}
        decoder.load_state_dict(state, assign=True)
        return decoder

    def select(self, members: Sequence[int]) -> "StackedDecoder":
        """A stack with copies of some members' weights, in the given order."""
        return StackedDecoder(self.config, self.vocab_size, self.weights.detach()[list(members)], self.compute_dtype)

    def _ordered(self, pieces: list[Tensor]) -> list[Tensor]:
        """Embedding, six weights a layer, last norm, head: a tied head is the embedding."""
        return [*pieces, pieces[0]] if self.config.tie_embeddings else pieces

    def _embed(self, embedding: Tensor, tokens: Tensor) -> Tensor:
        """Each member looks its tokens up in its own table: one table of members x vocab rows."""
        members, vocab, width = embedding.shape
        offsets = torch.arange(members, device=tokens.device)[:, None] * vocab
        looked_up = (tokens.reshape(members, -1) + offsets).view(tokens.shape)
        return F.embedding(looked_up, embedding.reshape(members * vocab, width))
