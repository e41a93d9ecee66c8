"""Bytes of training and decoding from first principles: numbers in, bytes out. Nothing here knows a model or a config.

Sources: ZeRO (arXiv:1910.02054, section 3) for parameters, gradients and optimizer states and how they are divided;
ZeRO-Offload (arXiv:2101.06840, section 3) for what goes to the host; "Reducing Activation Recomputation in Large
Transformer Models" (arXiv:2205.05198, section 4) for activations with and without checkpointing, with our own decoder's
tensors counted in place of a GPT's; LoRA (arXiv:2106.09685, section 4) for what a frozen base saves; grouped-query
attention (arXiv:2305.13245) for the size of a key/value cache.
"""

from dataclasses import dataclass

FP32 = 4
"""Bytes of a number in full precision: master weights, Adam's moments, losses."""
_MOMENTS = 2
_LIVE_PARAMETERS = 10**9
"""How many gathered parameters ZeRO 3 keeps at most (DeepSpeed's `stage3_max_live_parameters`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroPlan:
    """How DeepSpeed holds a model's states: ZeRO stage 0 to 3 over `world_size` processes, with 16-bit weights and fp32
    master weights (`half`) or fp32 ones, optimizer states and gradients, or weights too, on the host.

    `bucket` is `reduce_bucket_size` [parameters]; `buckets` how many of them are held at once.
    """

    stage: int = 0
    world_size: int = 1
    half: bool = False
    offload_optimizer: bool = False
    offload_parameters: bool = False
    bucket: int = 500_000_000
    buckets: int = 1

    @property
    def width(self) -> int:
        """Bytes of a weight, a gradient or an activation."""
        return 2 if self.half else FP32


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStates:
    """Bytes of one process: on its device, and in host memory (`host`) where something is offloaded.

    `moments`: the part of `optimizer` that only a step reads and writes. `gathered`: parameters of others that ZeRO 3
    holds while it computes with them. `passing`: copies that a step makes and gives back.
    """

    weights: float
    gradients: float
    optimizer: float
    moments: float = 0.0
    gathered: float = 0.0
    buckets: float = 0.0
    passing: float = 0.0
    host: float = 0.0

    @property
    def lasting(self) -> float:
        """What lies on the device from step to step: what DeepSpeed's own estimators count."""
        return self.weights + self.gradients + self.optimizer

    @property
    def device(self) -> float:
        """All that lies on the device when a step is taken."""
        return self.lasting + self.gathered + self.buckets + self.passing


def model_states(
    base_parameters: float, plan: ZeroPlan, *, trainable_parameters: float | None = None, whole_buckets: bool = True
) -> ModelStates:
    """What parameters, gradients and AdamW's states take in one process.

    `trainable_parameters`: of adapters beside a frozen base of `base_parameters`; only they have gradients and states
    (LoRA). None: the base itself is trained. `whole_buckets`: a bucket takes all its memory at once, as on a GPU; on
    the host untouched pages take none, so it is as large as what is put into it.

    Per trained parameter, of width w: w for the weight, w for the gradient, 8 for the moments; with 16-bit weights and
    under any ZeRO stage also 4 for a master weight and 4 for the fp32 gradient that it is updated by. Stage 1 divides
    what the optimizer keeps, 2 also gradients, 3 also weights, frozen ones too.

    What passes was measured on decoders of 10 and 19 M parameters (DeepSpeed 0.19, one process): under ZeRO 3 gradients
    are there three to four times on their way into their partition, and the bf16 optimizer's step takes 8 bytes a
    parameter.
    """
    trained = base_parameters if trainable_parameters is None else trainable_parameters
    frozen = 0.0 if trainable_parameters is None else base_parameters
    width, parts = plan.width, plan.world_size
    weights = width * (trained + frozen)
    gradients = width * trained
    masters = 2 * FP32 * trained if plan.stage >= 1 or plan.half else 0.0
    optimizer = _MOMENTS * FP32 * trained + masters
    gathered = buckets = passing = host = 0.0
    if plan.stage >= 1:
        optimizer /= parts
        if plan.stage > 1 or not plan.half:  # bf16 under stage 1 has an optimizer of its own, without buckets
            bucket = plan.bucket if whole_buckets else min(plan.bucket, trained)
            buckets = plan.buckets * width * bucket
    if plan.stage >= 2:
        gradients /= parts
    if plan.stage >= 3:
        gathered = width * min(trained + frozen, _LIVE_PARAMETERS)
        weights /= parts
        passing = 4 * width * min(trained, plan.bucket)
    elif plan.half:
        passing = 2 * FP32 * trained / (parts if plan.stage >= 1 else 1)
    if plan.offload_optimizer and plan.stage >= 1:
        host += optimizer + gradients + (passing if plan.stage < 3 else 0.0)
        optimizer, passing = 0.0, passing if plan.stage == 3 else 0.0
        gradients = 0.0  # each goes to the host as soon as its bucket is full
    if plan.offload_parameters and plan.stage >= 3:
        host, weights = host + weights, 0.0
    return ModelStates(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        moments=min(optimizer, _MOMENTS * FP32 * trained / (parts if plan.stage >= 1 else 1)),
        gathered=gathered,
        buckets=buckets,
        passing=passing,
        host=host,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A decoder's sizes. `kv_width` is key/value heads x head size as attention computes with them; `cached_width` what
    a layer's cache holds of a token: both, or what stands for them. `beside`: numbers a row that a layer keeps for its
    backward pass beside those of heads and one SwiGLU. `narrow_end`: of rows that no logit is made of its last layer
    computes keys and values alone, where no modules follow."""

    d_model: int
    layers: int
    heads: int
    kv_width: int
    d_ff: int
    vocabulary: int
    cached_width: int
    beside: int = 0
    narrow_end: bool = False


def learning_bytes(
    shape: Shape,
    batch: float,
    rows: int,
    width: int,
    *,
    predicted: float,
    checkpointing: bool = False,
    scores: int = 0,
    modules: int = 0,
) -> float:
    """Activations and logits that one forward and backward pass holds at its peak.

    `batch` sequences of `rows` token rows each, `predicted` of their tokens with logits.

    A layer keeps for its backward pass, per row: 9 d_model (two residuals, two norms with their inner values,
    attention's output and its copy, two projections' inputs), 3 kv_width and 4 d_ff (gate and up, silu, product), its
    heads' log-sums, and a row of the mask. Attention scores are not kept: the kernels recompute them (FlashAttention,
    arXiv:2205.14135); `scores`: their softmax is (1), and they are too (2). `checkpointing` keeps each layer's input
    only, and all of one layer at a time. Each of `modules` for further tokens (arXiv:2412.19437, eq. 21 to 23) is a
    layer with logits of its own, and keeps 12 d_model for three norms and what joins its two inputs. The gradients of
    one layer's values come on top; of the logits there are the logits, their copy by completion, log-softmax and its
    gradient, all in fp32 but the first.
    """
    kept = 9 * shape.d_model + 3 * shape.kv_width + 4 * shape.d_ff + shape.heads + 1.25 * rows + shape.beside
    kept += scores * shape.heads * rows
    gradients = 3 * shape.d_model + 4 * shape.d_ff
    count = shape.layers + modules
    layers = count * shape.d_model + kept if checkpointing else count * kept
    ends = (4 + 12 * modules) * shape.d_model
    values = batch * rows * (layers + gradients + ends)
    if shape.narrow_end and not checkpointing and not modules:
        behind_keys = kept - 3 * shape.d_model - 3 * shape.kv_width
        values -= max(0.0, batch * rows - predicted) * behind_keys
    return width * values + (1 + modules) * predicted * shape.vocabulary * (2 * width + 3 * FP32)


def rounds_bytes(rounds: int, completions: float, rows: int) -> float:
    """What a step's sampling rounds but the first leave for learning: ids, masks and log-probabilities of so many
    completions each, of `rows` tokens, and once more as one batch."""
    return 2 * (rounds - 1) * completions * rows * 16


def kv_cache_bytes(shape: Shape, sequences: float, rows: float, width: int) -> float:
    """What every layer's cache holds of `sequences` times `rows` token rows; one layer's is there twice at most: room
    for all its rows beside those that are copied into it, or what is kept of it when entries leave."""
    return width * sequences * rows * shape.cached_width * (shape.layers + 1)


def decoding_bytes(
    shape: Shape, prompts: float, prompt_rows: int, group: int, new_rows: int, width: int, *, shared: bool
) -> float:
    """A rollout's peak: cache, one layer's values without gradients (of the prompt, or of a step), and the numbers that
    are drawn from. `shared`: a prompt is held once for its `group` of completions."""
    holders = prompts if shared else prompts * group
    cached = prompts * (prompt_rows + group * new_rows) if shared else holders * (prompt_rows + new_rows)
    cache = kv_cache_bytes(shape, cached, 1, width)
    layer = 5 * shape.d_model + 3 * shape.kv_width + 4 * shape.d_ff + 1.25 * prompt_rows + shape.beside
    at_once = max(holders * prompt_rows, prompts * group)
    sampling = prompts * group * (5 * FP32 * shape.vocabulary + 16 * new_rows)
    return cache + width * layer * at_once + sampling
