"""Any causal language model of Hugging Face's transformers, called as this project calls a `Decoder`.

transformers is imported when a model is made: whoever trains a `Decoder` does not pay for it (3 s).

Models are always in evaluation mode, in training too: dropout is off.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from experiments.models.adapter import Site
from experiments.models.growing import Growing, GrowingRows


def load_base(
    folder: Path,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
    *,
    run_code: bool = False,
) -> nn.Module:
    """The causal language model at `folder`, frozen.

    Only `config.json` and safetensors are read: no network, no pickles, and code that comes with the model only if told
    to `run_code`.

    Raises:
        FileNotFoundError: where there is no `config.json` or no safetensors.
        ValueError: for a model whose code is its own, and for one without this kind of attention.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"model.path={folder}: no config.json; give the folder of a saved Hugging Face model")
    if not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(f"model.path={folder}: no *.safetensors; save it with `save_pretrained` first")
    from transformers import AutoModelForCausalLM

    with _without_progress_bars():
        model: nn.Module = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=run_code,
        )
    return model.to(device or torch.device("cpu")).requires_grad_(False).eval()


def find_sites(model: nn.Module, target_modules: Sequence[str]) -> tuple[Site, ...]:
    """The linear layers whose name, or the end of it, is one of `target_modules`, as peft finds them.

    Raises ValueError for a target that no layer has, and for one that is not a linear layer.
    """
    sites: list[Site] = []
    unused = set(target_modules)
    for name, module in model.named_modules():
        matching = {target for target in target_modules if name == target or name.endswith(f".{target}")}
        if not matching:
            continue
        unused -= matching
        if type(module) is not nn.Linear:
            raise ValueError(f"model.lora.target_modules: {name} is a {type(module).__name__}, not a linear layer")
        sites.append(Site(name, module.in_features, module.out_features))
    if unused or not sites:
        linear = sorted({name.rpartition(".")[2] for name, m in model.named_modules() if type(m) is nn.Linear})
        raise ValueError(f"model.lora.target_modules={sorted(unused)}: no such layers; this model has {linear}")
    return tuple(sites)


class HfCache:
    """Keys and values of the rows seen so far; see `experiments.models.attention.KVCache`."""

    def __init__(self, empty: Callable[[int], Growing] = GrowingRows) -> None:
        from transformers import DynamicCache

        self.held, self._empty = DynamicCache(), empty
        self.reserve(0)

    def reserve(self, rows: int) -> None:
        """See `KVCache.reserve`."""
        cast(Any, self.held).layer_class_to_replicate = partial(_cache_layer_class(), partial(self._empty, rows))

    def select(self, batch: Tensor) -> None:
        """Keeps the given batch entries (an index tensor) only."""
        self.held.batch_select_indices(batch)

    @property
    def rows(self) -> int:
        """How many rows each batch entry has."""
        return int(self.held.get_seq_length())

    @property
    def bytes(self) -> int:
        """What the held rows take [bytes]."""
        return sum(int(rows.bytes) for layer in cast(Any, self.held.layers) for rows in layer.both)


@cache
def _cache_layer_class() -> type:
    from transformers.cache_utils import DynamicLayer

    class CacheLayer(DynamicLayer):
        def __init__(self, empty: Callable[[], Growing]) -> None:
            super().__init__()
            self.both = empty(), empty()

        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            keys, values = self.both
            return keys.extend(key_states), values.extend(value_states)

        def get_seq_length(self) -> int:
            return self.both[0].rows

        def batch_select_indices(self, indices: Tensor) -> None:
            for rows in self.both:
                rows.select(indices)

    return CacheLayer


class HfModel(nn.Module):
    """Token ids in, next-token logits out; see `Decoder`, which is called in the same way.

    `window` is how many rows attention can look back, None without a bound. The project's masks say all that a row may
    see and know no window, so longer sequences are refused.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.window = _window(model.config)
        self._recomputed: list[nn.Module] = []
        self.train()

    def train(self, mode: bool = True) -> "HfModel":
        """Stays in evaluation mode whatever `mode` is, but for what says that layers are computed again."""
        super().train(False)
        for layer in self._recomputed:
            layer.training = True  # of the layer alone, not of what is in it: dropout stays off
        return self

    def recompute_layers(self, context: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """From now on a backward pass keeps each layer's input only and computes the rest again (gradient
        checkpointing), inside what `context` returned when the layer was computed first.

        Raises ValueError for a model that transformers can't do it for.
        """
        from transformers.modeling_layers import GradientCheckpointingLayer

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), context()

        cast(Any, self.model).activation_checkpointing_enable({"use_reentrant": False, "context_fn": contexts})
        self._recomputed = [m for m in self.model.modules() if isinstance(m, GradientCheckpointingLayer)]
        self.train()

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        cache: HfCache | None = None,
        logits_from: int = 0,
    ) -> Tensor:
        """Logits (batch, rows - logits_from, vocab) for `tokens` (batch, rows); see `Decoder.forward`."""
        rows = tokens.shape[1]
        visible = rows + (0 if cache is None else cache.rows)
        if self.window is not None and visible > self.window:
            raise ValueError(f"{visible} rows, but this model's attention has a window of {self.window}")
        out = self.model(
            input_ids=tokens,
            position_ids=positions if positions.dim() == 2 else positions[None],
            attention_mask=mask if mask is None or mask.dim() == 4 else mask[None, None],
            cache=None if cache is None else cache.held,
            use_cache=cache is not None,
            logits_to_keep=rows - logits_from,
        )
        return out.logits

    def new_cache(self) -> HfCache:
        """An empty cache for this model."""
        return HfCache()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device


class FullModel(HfModel):
    """A model of which every weight is trained."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.requires_grad_(True))

    def save(self, folder: Path) -> None:
        """Writes the model as `save_pretrained` does into an existing folder."""
        with _without_progress_bars():
            cast(Any, self.model).save_pretrained(folder)


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _window(config: Any) -> int | None:
    """The narrowest window of the model's layers. Raises ValueError where a layer is something else than attention."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    if odd := kinds - {"full_attention", "sliding_attention"}:
        raise ValueError(
            f"layers of {sorted(odd)} can't be told which rows to look at; use a model with attention only"
        )
    narrow = "sliding_attention" in kinds if kinds else True
    return getattr(text, "sliding_window", None) if narrow else None
