"""Sizes of a Hugging Face model from its `config.json`, without weights and without transformers.

The counts are those of a decoder with gated feed-forward layers and grouped-query attention (Llama, Qwen2, Mistral,
Gemma...). A model with other layers is counted as if it had these; biases and norms are counted as the widest of them
have them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.estimate.memory import Shape

# Other families' names of the same size.
_NAMES: Mapping[str, Sequence[str]] = {
    "d_model": ("hidden_size", "n_embd", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "num_heads"),
    "kv_heads": ("num_key_value_heads",),
    "d_ff": ("intermediate_size", "n_inner", "ffn_dim"),
    "vocabulary": ("vocab_size",),
}


class HfSizes:
    """What memory follows from. Raises ValueError, naming the field, for a `config.json` that doesn't say it."""

    def __init__(self, published: Mapping[str, Any]) -> None:
        text = published.get("text_config", published)
        self.d_model = _size(text, "d_model")
        self.layers = _size(text, "layers")
        self.heads = _size(text, "heads")
        self.kv_heads = _size(text, "kv_heads", self.heads)
        self.head_width = int(text.get("head_dim") or self.d_model // self.heads)
        self.d_ff = _size(text, "d_ff", 4 * self.d_model)
        self.vocabulary = _size(text, "vocabulary")
        # transformers' own default: tied, unless it is said or the family is one of those that write it.
        self.tied = bool(text.get("tie_word_embeddings", published.get("tie_word_embeddings", True)))
        self.attention_bias = bool(text.get("attention_bias", text.get("model_type") in ("qwen2", "gpt2")))
        self.experts = int(text.get("num_experts") or text.get("num_local_experts") or 1)
        self.d_expert = int(text.get("moe_intermediate_size") or self.d_ff) if self.experts > 1 else self.d_ff

    @classmethod
    def at(cls, folder: Path) -> "HfSizes":
        """Of the model in a folder. Raises OSError where there is none."""
        return cls(json.loads((folder / "config.json").read_text()))

    @property
    def shape(self) -> Shape:
        """For the formulas of `memory`."""
        return Shape(
            d_model=self.d_model,
            layers=self.layers,
            heads=self.heads,
            kv_width=self.kv_heads * self.head_width,
            d_ff=max(self.d_ff, self.d_expert),
            vocabulary=self.vocabulary,
            cached_width=2 * self.kv_heads * self.head_width,
        )

    @property
    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """(in, out) of the linear layers of a block, by the end of their name."""
        queries, keys = self.heads * self.head_width, self.kv_heads * self.head_width
        return {
            "q_proj": (self.d_model, queries),
            "k_proj": (self.d_model, keys),
            "v_proj": (self.d_model, keys),
            "o_proj": (queries, self.d_model),
            "gate_proj": (self.d_model, self.d_expert),
            "up_proj": (self.d_model, self.d_expert),
            "down_proj": (self.d_expert, self.d_model),
        }

    @property
    def parameters(self) -> int:
        """All of them: embeddings, blocks and norms."""
        layers = {name: rows * columns for name, (rows, columns) in self.linear_layers.items()}
        attention = sum(layers.pop(name) for name in ("q_proj", "k_proj", "v_proj", "o_proj"))
        bias = (self.heads + 2 * self.kv_heads) * self.head_width if self.attention_bias else 0
        block = attention + bias + self.experts * sum(layers.values()) + 2 * self.d_model
        embeddings = self.vocabulary * self.d_model * (1 if self.tied else 2)
        return embeddings + self.layers * block + self.d_model

    def adapter_parameters(self, target_modules: Sequence[str], rank: int) -> int:
        """A and B (arXiv:2106.09685) on the named layers of every block; a layer that is not known here is counted as
        the widest."""
        widest = max(self.linear_layers.values(), key=sum)
        ends = (target.rpartition(".")[2] for target in target_modules)
        return self.layers * rank * sum(sum(self.linear_layers.get(end, widest)) for end in ends)


def _size(text: Mapping[str, Any], name: str, default: int | None = None) -> int:
    for key in _NAMES[name]:
        if text.get(key):
            return int(text[key])
    if default is None:
        raise ValueError(f"config.json says no {_NAMES[name][0]}")
    return default
