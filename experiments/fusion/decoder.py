"""Many decoders of one shape as one: the maths of `experiments.models.decoder` over stacked weights.

Every projection is one batched matrix product over the members; rotation and attention know no weights and take members
as more batch. Batches are flat, one member's after the other's: (members x batch, rows). So whatever calls a `Decoder`
(`completion_logits`, `generate`) calls a stack in the same way. The results are those of M separate decoders, to
rounding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name the whole field uses
from torch import Tensor, nn

from experiments.fusion.blocks import Norm, Projection, project
from experiments.fusion.layer import LayerContext, further_module, stacked_layer
from experiments.fusion.routing import StackedRouting, bias_steps_of
from experiments.fusion.stack import StackLayout, pack_all
from experiments.models.attention import KVCache, RotaryTable, Sight
from experiments.models.decoder import PAD_ID, Decoder
from experiments.models.multi_token import new_decoder
from experiments.models.quantization import fake_quantize, fake_quantized, quantized_weights
from orchestrator.schema.training import ModelConfig, Weights


class StackedDecoder(nn.Module):
    """Token ids of all members in, next-token logits out. `weights` (M, N) is its only parameter, in fp32; `routing`
    has what their experts are balanced by, None without experts.

    With a `compute_dtype` other than fp32 the weights are cast once a forward pass, and gradients arrive in fp32. After
    `fake_quantize` members learn and decode as a decoder of that name does.
    """

    def __init__(
        self,
        config: ModelConfig,
        vocab_size: int,
        rows: Tensor,
        compute_dtype: torch.dtype = torch.float32,
        bias_steps: Tensor | None = None,
    ) -> None:
        """rows: (M, N). bias_steps: see `StackedRouting`; None: of members that have not learned yet."""
        super().__init__()
        self.config, self.vocab_size, self.compute_dtype = config, vocab_size, compute_dtype
        self.layout = StackLayout.of(config, vocab_size)
        if rows.dim() != 2 or rows.shape[1] != self.layout.row_size:
            raise ValueError(f"rows are {tuple(rows.shape)}; members of this shape have {self.layout.row_size} weights")
        self.weights = nn.Parameter(rows.float())
        if bias_steps is None:
            bias_steps = rows.new_zeros(len(rows), len(self.layout.beside), config.experts, dtype=torch.int64)
        self.routing = StackedRouting(config, bias_steps) if self.layout.beside else None
        self._rotation = RotaryTable.of(config)
        self._rounding, self._rounded = Weights.none, frozenset[str]()

    def fake_quantize(self, weights: Weights) -> "StackedDecoder":
        """From now on linear layers compute as if quantized, in place; see `quantization.fake_quantize`. Itself."""
        with torch.device("meta"):
            decoder = new_decoder(self.config, self.vocab_size)
        self._rounding = weights
        self._rounded = frozenset() if weights == Weights.none else quantized_weights(decoder)
        return self

    @classmethod
    def of(cls, decoders: Sequence[Decoder], compute_dtype: torch.dtype = torch.float32) -> "StackedDecoder":
        """A stack of decoders of one shape, on the device of the first."""
        first = decoders[0]
        layout = StackLayout.of(first.config, first.vocab_size)
        rows = pack_all(layout, [decoder.state_dict() for decoder in decoders])
        bias_steps = torch.stack([bias_steps_of(decoder) for decoder in decoders]) if layout.beside else None
        return cls(first.config, first.vocab_size, rows, compute_dtype, bias_steps)

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
        ahead: Tensor | None = None,
    ) -> Any:
        """Logits (members x batch, rows - logits_from, vocab); see `Decoder.forward`, batch being members x batch. With
        `ahead` a list, as `MultiTokenDecoder.forward` gives."""
        weights = self.named_weights()
        if ahead is not None:
            x = self._layers(weights, tokens, positions, mask, cache)
            return self._logits_of_further(weights, x, positions, mask, logits_from, ahead)
        x = self._layers(weights, tokens, positions, mask, cache, logits_from)
        return self._projected(x, weights["norm.weight"], weights)

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        rows_from: int = 0,
    ) -> Tensor:
        """What the head reads, (members x batch, rows - rows_from, d_model); see `Decoder.hidden`."""
        weights = self.named_weights()
        x = self._layers(weights, tokens, positions, mask, cache, rows_from)
        return Norm.apply(x.reshape(self.members, -1, self.config.d_model), weights["norm.weight"]).view(x.shape)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (members x batch, rows, vocab) of hidden rows (members x batch, rows, d_model)."""
        logits = project(hidden.reshape(self.members, -1, self.config.d_model), self._head(self.named_weights()))
        return logits.view(*hidden.shape[:2], -1)

    def named_weights(self) -> dict[str, Tensor]:
        """Each weight of all members, (M, *shape), by its name in a `Decoder`, in the precision of the computation."""
        weights = self.weights if self.compute_dtype == torch.float32 else self.weights.to(self.compute_dtype)
        return {
            name: fake_quantized(piece, self._rounding) if name in self._rounded else piece
            for name, piece in zip(self.layout.names, self.layout.pieces(weights), strict=True)
        }

    def member_state(self, member: int) -> dict[str, Tensor]:
        """A copy of the state dict that a decoder of one member has."""
        # Copies: what a view is saved with is the whole row.
        weights = {n: w.clone() for n, w in self.layout.unpack(self.weights.detach()[member]).items()}
        if self.routing is None:
            return weights
        return weights | dict(zip(self.layout.beside, self.routing.bias_steps[member].clone(), strict=True))

    def restore_beside(self, member: int, state: Mapping[str, Tensor]) -> None:
        """Gives a member what its state dict has besides weights."""
        if self.routing is not None:
            self.routing.bias_steps[member] = torch.stack([state[name] for name in self.layout.beside])

    def decoder(self, member: int) -> Decoder:
        """An ordinary decoder with a copy of one member's weights, which computes as the stack does."""
        with torch.device("meta"):
            decoder = new_decoder(self.config, self.vocab_size)
        decoder.load_state_dict(self.member_state(member), assign=True)
        fake_quantize(decoder, self._rounding)
        return decoder

    def select(self, members: Sequence[int]) -> "StackedDecoder":
        """A stack with copies of some members' weights, in the given order."""
        rows = self.weights.detach()[list(members)]
        bias_steps = None if self.routing is None else self.routing.bias_steps[list(members)]
        stack = StackedDecoder(self.config, self.vocab_size, rows, self.compute_dtype, bias_steps)
        return stack.fake_quantize(self._rounding)

    def _layers(
        self,
        weights: dict[str, Tensor],
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        cache: KVCache | None,
        rows_from: int = 0,
    ) -> Tensor:
        """What leaves the last layer, (members x batch, rows - rows_from, d_model)."""
        x = self._embed(weights["embedding.weight"], tokens)
        context = self._context(x, tokens, positions, mask, cache)
        x = x.view(self.members, -1, self.config.d_model)
        last = self.config.layers - 1
        for index in range(last):
            x = stacked_layer(x, weights, f"layers.{index}.", index, context)
        sight = context.sight.of_rows_from(rows_from, tokens, self.config)
        x = stacked_layer(x, weights, f"layers.{last}.", last, replace(context, sight=sight))
        return x.view(len(tokens), -1, x.shape[2])[:, rows_from - sight.first :]

    def _logits_of_further(
        self,
        weights: dict[str, Tensor],
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        logits_from: int,
        ahead: Tensor,
    ) -> list[Tensor]:
        """Of what leaves the last layer, and of each module in turn; see `MultiTokenDecoder.forward`."""
        hidden = Norm.apply(x.view(self.members, -1, self.config.d_model), weights["norm.weight"]).view(x.shape)
        logits = [self.logits(hidden[:, logits_from:])]
        for k in range(1, self.config.prediction.depth + 1):
            rows = max(0, x.shape[1] - k)
            following = ahead[:, k - 1 : k - 1 + rows]
            embedded = self._embed(weights["embedding.weight"], following)
            seen = None if mask is None else mask[..., :rows, :rows]
            context = self._context(embedded, following, positions[..., :rows], seen, None)
            before, token = (some.reshape(self.members, -1, x.shape[-1]) for some in (hidden[:, :rows], embedded))
            hidden = further_module(before, token, weights, k, context).view(embedded.shape)
            logits.append(self._projected(hidden[:, logits_from:], weights[f"further.{k - 1}.norm.weight"], weights))
        return logits

    def _context(
        self, x: Tensor, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: KVCache | None
    ) -> LayerContext:
        """For the embedded `tokens` x."""
        return LayerContext(
            config=self.config,
            shape=tokens.shape,
            rotation=self._rotation(positions, tokens.shape[1] + (0 if cache is None else cache.rows)),
            sight=Sight.of(mask, x, self.config, cached=cache is not None),
            cache=cache,
            routing=self.routing,
            counted=None if self.routing is None else (tokens != PAD_ID).reshape(self.members, -1),
        )

    def _projected(self, x: Tensor, norm: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """Logits of rows x (members x batch, rows, d_model), normalised first."""
        logits = Projection.apply(x.reshape(self.members, -1, self.config.d_model), norm, self._head(weights))
        return logits.view(*x.shape[:2], self.vocab_size)

    def _head(self, weights: dict[str, Tensor]) -> Tensor:
        return weights["embedding.weight" if self.config.tie_embeddings else "head.weight"]

    def _embed(self, embedding: Tensor, tokens: Tensor) -> Tensor:
        """Each member looks its tokens up in its own table: one table of members x vocab rows."""
        members, vocab, width = embedding.shape
        offsets = torch.arange(members, device=tokens.device)[:, None] * vocab
        looked_up = (tokens.reshape(members, -1) + offsets).view(tokens.shape)
        return F.embedding(looked_up, embedding.reshape(members * vocab, width))
