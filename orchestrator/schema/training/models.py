"""What a model is: a compact decoder or one of Hugging Face, and in how many bits it is kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class AttentionKind(StrEnum):
    """heads: each of `kv_heads` heads has keys and values of its own: multi-head where there are as many as `heads`,
    grouped-query (arXiv:2305.13245) where there are fewer, multi-query (arXiv:1911.02150) where there is one.
    mla: all heads' keys and values are projected up from one latent, beside one rotated key (arXiv:2405.04434)."""

    heads = "heads"
    mla = "mla"


class FeedForwardKind(StrEnum):
    """dense: one SwiGLU of `d_ff`. moe: shared experts, and routed ones of which a token sees a few
    (arXiv:2401.06066)."""

    dense = "dense"
    moe = "moe"


class Balancing(StrEnum):
    """How routed experts are kept equally busy. bias: a bias on who is selected, moved against each step's load
    (arXiv:2412.19437, section 2.1.2). auxiliary: a loss (arXiv:2101.03961, eq. 4)."""

    bias = "bias"
    auxiliary = "auxiliary"


class PredictionKind(StrEnum):
    """What a model is trained to predict: the next token, or further ones too, each by a module of its own
    (`multi_token`, arXiv:2412.19437, section 2.2), which draft answers at inference."""

    next_token = "next_token"
    multi_token = "multi_token"


@dataclass
class PredictionConfig:
    """Of `multi_token`: `depth` modules, and what the mean of their losses weighs beside that of the next token, in
    supervised stages (`weight`) and on the sampled answers of reinforcement learning (`rl_weight`; 0: not learned)."""

    kind: PredictionKind = PredictionKind.next_token
    depth: int = 1
    weight: float = 0.3
    rl_weight: float = 0.0


@dataclass
class ModelConfig:
    """A compact decoder-only transformer.

    `kv_heads` counts where `attention` is `heads`. Of `mla`: `kv_rank` is the width of the latent of keys and values,
    `rope_dim` that of a rotated query or key, beside the d_model / heads of one without position, `query_rank` the
    width of the queries' own latent, 0 for none.
    Of `ffn=moe`: experts of width `d_expert`, of which each token has all `shared_experts` and the best
    `experts_per_token` of `experts`. `bias_rate`: how far a step moves an expert's bias; `auxiliary_weight`: of the
    auxiliary loss.
    """

    name: str = "decoder"
    d_model: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 4
    d_ff: int = 176
    rope_theta: float = 10000.0
    tie_embeddings: bool = True
    attention: AttentionKind = AttentionKind.heads
    kv_rank: int = 32
    query_rank: int = 0
    rope_dim: int = 8
    ffn: FeedForwardKind = FeedForwardKind.dense
    d_expert: int = 44
    shared_experts: int = 1
    experts: int = 8
    experts_per_token: int = 2
    balancing: Balancing = Balancing.bias
    bias_rate: float = 0.01
    auxiliary_weight: float = 0.01
    prediction: PredictionConfig = field(default_factory=PredictionConfig)


@dataclass
class LoraConfig:
    """Adapters (arXiv:2106.09685) on the layers whose name ends in one of `target_modules`: W + (alpha / rank) B A.

    Members of a stack may differ in `rank`, up to the `max_rank` that they share, and in `alpha`.
    """

    rank: int = 8
    alpha: float = 16.0
    max_rank: int = 16
    target_modules: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"])


class Training(StrEnum):
    """What of a Hugging Face model is trained: adapters beside its frozen weights (`lora`), or all of it (`full`)."""

    lora = "lora"
    full = "full"


@dataclass
class HfModelConfig:
    """A causal language model of Hugging Face.

    `path` is a folder with its `config.json`, safetensors and tokenizer, or a name on the hub, which is looked up where
    the study is composed. `dtype`, of its weights, is `float32` or `bfloat16`; adapters are float32 beside either.
    `attention`: `sdpa` or `eager`. `gradient_checkpointing` keeps each layer's input only and computes the rest again.
    `chat_template`: `auto` reads a prompt as a user's message where the tokenizer has a template, `none` as it stands.
    `lora` is for `training=lora`. Code that comes with a model is run only where an administrator trusts its folder
    (`schema.trust`), pickled weights are never read.
    """

    name: str = "hf"
    path: str = ""
    training: Training = Training.lora
    dtype: str = "float32"
    attention: str = "sdpa"
    gradient_checkpointing: bool = False
    chat_template: str = "auto"
    lora: LoraConfig = field(default_factory=LoraConfig)


AnyModelConfig = ModelConfig | HfModelConfig


MODELS: Mapping[str, type[AnyModelConfig]] = {"decoder": ModelConfig, "hf": HfModelConfig}
"""By name: what `model=` can be."""


class Weights(StrEnum):
    """In how many bits the weights of linear layers are held: as trained (`none`), 8 or 4."""

    none = "none"
    int8 = "int8"
    int4 = "int4"


@dataclass
class QuantizationConfig:
    """How a trained model is quantized by the stage `quantize`: its `weights`, and its key/value cache in `kv_bits`
    bits (8, 6, or 0: as computed)."""

    name: str = "none"
    weights: Weights = Weights.none
    kv_bits: int = 0
