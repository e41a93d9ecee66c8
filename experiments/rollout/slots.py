"""Keys and values of completions that are decoded together, and the forward passes that extend them.

A *row* is one completion, with columns of its own that are written in place. A *place* is one prompt, held once for all
its completions. Queries attend to their prompt as one product a place and to their own columns as one product a row,
and the two softmaxes are put together (as in Hydragen, arXiv:2402.05099): exp(s) of both over the sum of both.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812 - the name the whole field uses
from torch import Tensor

from experiments.rollout.weights import LayerWeights, PlainWeights

_FIRST_COLUMNS = 16


class Slots:
    """R rows, at most G of each of C places, up to T tokens each.

    By layer: prompt_keys (C, kv_heads, head_dim, S), prompt_values (C, kv_heads, S, head_dim), prompts at the right
    end; own_keys (R, kv_heads, head_dim, columns), own_values (R, kv_heads, columns, head_dim), whose columns grow up
    to T: what is not there is not in the way of a processor's cache. padding (C,): of the prompts. at (R,): where a
    row's queries stand among those of its place, place x G + number. entered (R,): the clock when a row began.
    """

    def __init__(
        self, weights: PlainWeights, places: int, rows: int, group: int, prompt_rows: int, max_tokens: int
    ) -> None:
        self.weights, self.group, self.prompt_rows, self.max_tokens = weights, group, prompt_rows, max_tokens
        like, layers = weights.embedding, range(len(weights.layers))
        kv, width = weights.kv_heads, weights.head_dim
        self.columns, self.clock = min(max_tokens, _FIRST_COLUMNS), 0
        self.prompt_keys = [like.new_zeros(places, kv, width, prompt_rows) for _ in layers]
        self.prompt_values = [like.new_zeros(places, kv, prompt_rows, width) for _ in layers]
        self.own_keys = [like.new_zeros(rows, kv, width, self.columns) for _ in layers]
        self.own_values = [like.new_zeros(rows, kv, self.columns, width) for _ in layers]
        self.padding = torch.zeros(places, dtype=torch.long, device=like.device)
        self.at = torch.zeros(rows, dtype=torch.long, device=like.device)
        self.entered = torch.zeros(rows, dtype=torch.long, device=like.device)
        self._rotations = _rotations(weights, prompt_rows + max_tokens)
        self._arranged()

    def enter(self, places: Tensor, rows: Tensor, tokens: Tensor, padding: Tensor) -> Tensor:
        """Puts prompts (N, S) into places, their completions into rows (N, G); returns the logits (N, vocab) of the
        first token of each."""
        weights = self.weights
        columns = torch.arange(self.prompt_rows, device=tokens.device)
        positions = (columns - padding[:, None]).clamp_(min=0)
        real = columns >= padding[:, None]
        # A padding row looks at itself, or its softmax would be over nothing.
        itself = torch.eye(len(columns), dtype=torch.bool, device=columns.device)
        mask = (real[:, None, :] & (columns[:, None] >= columns)) | itself
        x, turns = F.embedding(tokens, weights.embedding), self._rotations[positions]
        for index, layer in enumerate(weights.layers):
            queries, keys, values = (part.transpose(1, 2) for part in self._projected(x, layer, turns))
            self.prompt_keys[index][places], self.prompt_values[index][places] = keys.transpose(2, 3), values
            shared = weights.heads != weights.kv_heads
            # Queries are to base 2.
            mixed = F.scaled_dot_product_attention(
                queries, keys, values, mask[:, None], scale=math.log(2.0), enable_gqa=shared
            )
            x = self._after_attention(x, mixed.transpose(1, 2).flatten(2), layer)
        self.padding[places] = padding
        self.at[rows] = places[:, None] * self.group + torch.arange(self.group, device=tokens.device)
        self.entered[rows] = self.clock
        self._arranged()
        return self._logits(x[:, -1])

    def step(self, tokens: Tensor) -> Tensor:
        """The next token's logits (R, vocab) after `tokens` (R,), whatever it may be of rows that nobody is in."""
        weights = self.weights
        visible = min(self.clock - self._oldest + 1, self.max_tokens)
        self._make_room(visible)
        column = (self.clock - self.entered).clamp_(max=self.max_tokens - 1)
        positions = self._prompt_lengths + column
        empty = None
        if not self._in_step:
            later = torch.arange(visible, device=tokens.device) > column[:, None]
            empty = weights.embedding.new_zeros(later.shape).masked_fill_(later, -torch.inf)[:, None, None]
        x, turns = F.embedding(tokens, weights.embedding), self._rotations[positions]
        for index, layer in enumerate(weights.layers):
            queries, keys, values = self._projected(x, layer, turns)
            if self._in_step:
                self.own_keys[index][..., visible - 1], self.own_values[index][:, :, visible - 1] = keys, values
            else:
                self.own_keys[index][self._every_row, :, :, column] = keys
                self.own_values[index][self._every_row, :, column] = values
            x = self._after_attention(x, self._attend(index, queries, visible, empty), layer)
        self.clock += 1
        return self._logits(x)

    def keep_rows(self, rows: Tensor) -> None:
        """Gives up all rows but these."""
        self.own_keys = [held[rows] for held in self.own_keys]
        self.own_values = [held[rows] for held in self.own_values]
        self.at, self.entered = self.at[rows], self.entered[rows]
        self._arranged()

    def keep_places(self, places: Tensor) -> None:
        """Gives up all places but these, which all rows are of."""
        renamed = torch.zeros_like(self.padding)
        renamed[places] = torch.arange(len(places), device=places.device)
        self.at = renamed[self.at // self.group] * self.group + self.at % self.group
        self.prompt_keys = [held[places] for held in self.prompt_keys]
        self.prompt_values = [held[places] for held in self.prompt_values]
        self.padding = self.padding[places]
        self._arranged()

    def _arranged(self) -> None:
        """What follows from who is where."""
        like, kv = self.weights.embedding, self.weights.kv_heads
        self._every_row = torch.arange(len(self.at), device=like.device)
        self._prompt_lengths = (self.prompt_rows - self.padding)[self.at // self.group]
        self._oldest = int(self.entered.min())
        self._in_step = bool((self.entered == self._oldest).all())
        padded = torch.arange(self.prompt_rows, device=like.device) < self.padding[:, None]
        bias = like.new_zeros(padded.shape).masked_fill_(padded, -torch.inf)
        self._padded = bias.repeat_interleave(kv, dim=0)[:, None]

    def _make_room(self, visible: int) -> None:
        """Columns for `visible` tokens of each row, twice as many as before where there are too few."""
        if visible <= self.columns:
            return
        more = min(self.max_tokens, 2 * self.columns) - self.columns
        self.columns += more
        self.own_keys = [F.pad(keys, (0, more)) for keys in self.own_keys]
        self.own_values = [F.pad(values, (0, 0, 0, more)) for values in self.own_values]

    def _attend(self, index: int, queries: Tensor, visible: int, empty: Tensor | None) -> Tensor:
        """(R, heads x head_dim) from queries (R, heads, head_dim), over `visible` columns but for the `empty` ones."""
        rows, heads, width = queries.shape
        kv, group = self.weights.kv_heads, self.group
        places = len(self.padding)
        # (place x key head, number x its query heads, head_dim)
        by_place = queries.new_zeros(places * group, heads, width).index_copy_(0, self.at, queries)
        by_place = by_place.view(places, group, kv, -1, width).transpose(1, 2).reshape(places * kv, -1, width)
        scores = torch.baddbmm(self._padded, by_place, self.prompt_keys[index].flatten(0, 1))
        of_prompt = torch.cat(_numerators(scores, self.prompt_values[index].flatten(0, 1)), dim=-1)
        of_prompt = of_prompt.view(places, kv, group, -1, width + 2).transpose(1, 2).reshape(-1, heads, width + 2)
        first, first_top, first_sum = of_prompt.index_select(0, self.at).split((width, 1, 1), dim=-1)
        own_keys = self.own_keys[index][..., :visible].flatten(0, 1)
        own_values = self.own_values[index][:, :, :visible].flatten(0, 1)
        scores = torch.bmm(queries.reshape(rows * kv, -1, width), own_keys)
        if empty is not None:
            scores = (scores.view(rows, kv, -1, visible) + empty).flatten(0, 1)
        of_own = _numerators(scores, own_values)
        second, second_top, second_sum = (part.view(rows, heads, -1) for part in of_own)
        top = torch.maximum(first_top, second_top)
        first_share, second_share = (first_top - top).exp2_(), (second_top - top).exp2_()
        mixed = first * first_share + second * second_share
        mixed = mixed / (first_sum * first_share + second_sum * second_share)
        return mixed.to(queries.dtype).flatten(1)

    def _projected(self, x: Tensor, layer: LayerWeights, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries (..., heads, head_dim), to base 2, rotated keys and values (..., kv_heads, head_dim)."""
        weights = self.weights
        heads = weights.heads, weights.kv_heads
        normed = F.rms_norm(x, layer.attention_norm.shape, layer.attention_norm, weights.eps)
        parts = F.linear(normed, layer.qkv, layer.qkv_bias).unflatten(-1, (-1, weights.head_dim))
        rotated, values = parts.split((sum(heads), weights.kv_heads), dim=-2)
        # Neighbours of the last dimension as complex numbers.
        pairs = torch.view_as_complex(rotated.float().unflatten(-1, (-1, 2)))
        queries, keys = torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype).split(heads, dim=-2)
        return queries, keys, values

    def _after_attention(self, x: Tensor, mixed: Tensor, layer: LayerWeights) -> Tensor:
        x = x + F.linear(mixed, layer.out)
        normed = F.rms_norm(x, layer.feed_forward_norm.shape, layer.feed_forward_norm, self.weights.eps)
        gate, up = F.linear(normed, layer.gate_up).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate).mul_(up), layer.down)

    def _logits(self, x: Tensor) -> Tensor:
        weights = self.weights
        return F.linear(F.rms_norm(x, weights.norm.shape, weights.norm, weights.eps), weights.head)


def _numerators(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sum_j 2^(s_j - top) v_j, top = max_j s_j, and sum_j 2^(s_j - top), of scores to base 2; in float."""
    scores = scores.float()
    top = scores.amax(dim=-1, keepdim=True)
    shares = scores.sub_(top).exp2_()
    return torch.bmm(shares.to(values.dtype), values).float(), top, shares.sum(dim=-1, keepdim=True)


def _rotations(weights: PlainWeights, count: int) -> Tensor:
    """exp(i position frequency) of each head (count, heads + kv_heads, head_dim / 2); that of queries is over
    sqrt(head_dim) and to base 2."""
    positions = torch.arange(count, dtype=torch.float64)
    angles = torch.outer(positions, weights.frequencies.cpu())
    turns = torch.polar(torch.full_like(angles, weights.rotation_scale), angles)[:, None]
    queries = turns * (weights.head_dim**-0.5 / math.log(2.0))
    both = torch.cat((queries.expand(-1, weights.heads, -1), turns.expand(-1, weights.kv_heads, -1)), dim=1)
    return both.to(torch.complex64).to(weights.embedding.device)
