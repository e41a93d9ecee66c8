"""A decoder that predicts further tokens beside the next one: multi-token prediction of DeepSeek-V3 (arXiv:2412.19437,
section 2.2).

Module k = 1..D looks k tokens further than the decoder. Of row i it takes what the module before it made, h^(k-1)_i
(for k = 1 the decoder's output), and the embedding of token i + k, and passes

    h'^k_i = M_k [RMSNorm(h^(k-1)_i); RMSNorm(Emb(t_(i+k)))]        (eq. 21)

through a layer and a last norm of its own; the decoder's head makes logits of token i + k + 1 of it (eq. 22, 23).
Embedding and head are the decoder's. The modules are sequential, so each sees all of the causal chain.

With none of the modules asked for, this is the decoder: same logits, same weights from the same seed.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from experiments.models.attention import KVCache, Sight
from experiments.models.decoder import CONFIG_FILE, PAD_ID, WEIGHTS_FILE, Decoder, Layer, load_decoder
from experiments.models.norm import RMSNorm
from experiments.models.shared_prompt import GroupLayout
from experiments.parts import timed_as
from orchestrator.schema.training import AnyModelConfig, HfModelConfig, ModelConfig, PredictionKind, model_config


class FurtherToken(nn.Module):
    """One module. `index` is its layer's in a cache."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.hidden_norm, self.token_norm = RMSNorm(config.d_model), RMSNorm(config.d_model)
        self.joining = nn.Linear(2 * config.d_model, config.d_model, bias=False)
        self.layer = Layer(config, index)
        self.norm = RMSNorm(config.d_model)

    def forward(
        self,
        hidden: Tensor,
        embedded: Tensor,
        rotation: Tensor,
        sight: Sight,
        cache: KVCache | None,
        counted: Tensor | None,
    ) -> Tensor:
        """h^k (batch, rows, d) of h^(k-1) and the tokens k further, both (batch, rows, d)."""
        x = self.joining(torch.cat((self.hidden_norm(hidden), self.token_norm(embedded)), dim=-1))
        return self.layer(x, rotation, sight, cache, counted)


class MultiTokenDecoder(Decoder):
    """A `Decoder` with `prediction.depth` modules."""

    def __init__(self, config: ModelConfig, vocab_size: int, generator: torch.Generator | None = None) -> None:
        super().__init__(config, vocab_size, generator)
        depth = config.prediction.depth
        self.further = nn.ModuleList(FurtherToken(config, config.layers + k) for k in range(depth))
        if not self.embedding.weight.is_meta:
            self._draw_further(generator)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        logits_from: int = 0,
        ahead: Tensor | None = None,
    ) -> Any:
        """As `Decoder.forward`; with `ahead` (batch, rows), the token after each row, also the modules' logits.

        Then it is a list of 1 + D tensors. The k-th, (batch, rows - logits_from - k, vocab), is of the tokens k + 1
        further than its rows: the last k rows have no token to look at. No cache is used.
        """
        if ahead is None:
            return super().forward(tokens, positions, mask, cache, logits_from)
        hidden = self.hidden(tokens, positions, mask)
        logits = [self.logits(hidden[:, logits_from:])]
        for k in range(1, len(self.further) + 1):
            rows = max(0, tokens.shape[1] - k)
            seen = None if mask is None else mask[..., :rows, :rows]
            of_rows = positions[..., :rows]
            hidden, normed = self.look_further(k, hidden[:, :rows], ahead[:, k - 1 : k - 1 + rows], of_rows, seen, None)
            logits.append(self.logits(normed[:, logits_from:]))
        return logits

    def look_further(
        self,
        k: int,
        hidden: Tensor,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        cache: KVCache | None,
    ) -> tuple[Tensor, Tensor]:
        """h^k (batch, rows, d), and what the head reads of it, from h^(k-1) of these rows and the tokens k further.

        positions, mask, cache: as in `Decoder.forward`; a cache keeps each module's rows beside the layers'.
        """
        module, embedded = cast(FurtherToken, self.further[k - 1]), self.embedding(tokens)
        keys = tokens.shape[1] + (0 if cache is None else cache.rows)
        sight = Sight.of(mask, embedded, self.config, cached=cache is not None)
        counted = tokens != PAD_ID if self.experts else None
        further = module(hidden, embedded, self._rotation(positions, keys), sight, cache, counted)
        return further, module.norm(further)

    def new_cache(self) -> KVCache:
        """An empty cache, with room for the modules."""
        return KVCache(self.config.layers + len(self.further))

    @torch.no_grad()
    def _draw_further(self, generator: torch.Generator | None) -> None:
        """As `Decoder` draws its layers: each starts as the identity, after the projection that joins."""
        for name, weight in self.further.named_parameters():
            if name.endswith(("attention.out.weight", "feed_forward.down.weight")):
                weight.zero_()
            elif weight.dim() > 1:
                weight.normal_(0.0, weight.shape[-1] ** -0.5, generator=generator)


@timed_as("forward")
def further_logits(
    model: Callable[..., Any], prompts: Tensor, completions: Tensor, padding: Tensor | None = None
) -> list[Tensor]:
    """Logits of each token of `completions` (P x G, T) given `prompts` (P, S), and the modules': 1 + D tensors.

    The k-th is (P x G, T - k, vocab) and predicts completions[:, k:] from k + 1 tokens before. `model` is a
    `MultiTokenDecoder` or an engine around one. A group's prompt is repeated for each of its completions.
    """
    group, steps = completions.shape[0] // prompts.shape[0], completions.shape[1] - 1
    prompts = prompts.repeat_interleave(group, dim=0)
    padding = None if padding is None else padding.repeat_interleave(group)
    layout = GroupLayout(prompts.shape[1], 1, steps, padding, prompts.device)
    positions, mask = layout.all()
    tokens = torch.cat((prompts, completions), dim=1)
    return model(tokens[:, :-1], positions, mask=mask, logits_from=layout.prompt_rows - 1, ahead=tokens[:, 1:])


def new_decoder(config: ModelConfig, vocab_size: int, generator: torch.Generator | None = None) -> Decoder:
    """A decoder of the kind that `config.prediction` says."""
    multi = config.prediction.kind is PredictionKind.multi_token
    return (MultiTokenDecoder if multi else Decoder)(config, vocab_size, generator)


def read_decoder(folder: Path) -> Decoder:
    """As `load_decoder`, of either kind."""
    from safetensors.torch import load_file  # late, so that the model itself needs torch only

    shape = json.loads((folder / CONFIG_FILE).read_text())
    config = cast(ModelConfig, model_config(shape["model"]))
    if config.prediction.kind is PredictionKind.next_token:
        return load_decoder(folder)
    with torch.device("meta"):
        decoder = MultiTokenDecoder(config, shape["vocab_size"])
    decoder.load_state_dict(load_file(folder / WEIGHTS_FILE), assign=True)
    return decoder


def further_weight(config: AnyModelConfig, *, supervised: bool) -> float:
    """What the modules' loss weighs beside that of the next token; 0 where there are none to be learned."""
    if isinstance(config, HfModelConfig) or config.prediction.kind is PredictionKind.next_token:
        return 0.0
    return config.prediction.weight if supervised else config.prediction.rl_weight
