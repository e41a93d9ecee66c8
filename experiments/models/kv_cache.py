"""A key/value cache whose rows are held in 8 or 6 bits.

Each row of each head has a scale of its own (float16) and one code for every number: a byte, or 6 bits, four of them
packed into three bytes. Attention gets back what the codes say, of the newest row as of the oldest, so that a token is
seen alike by all that come after it.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812 - the name the whole field uses
from torch import Tensor

from experiments.models.hf import HfCache
from experiments.rollout import Cache

SCALE_BYTES = 2
_LEAST_SCALE = torch.finfo(torch.float16).tiny


def packed_bytes(width: int, bits: int) -> int:
    """What `width` numbers of one row of one head take, their scale included [bytes]."""
    return (width if bits == 8 else -(-width // 4) * 3) + SCALE_BYTES


def pack(x: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Codes (uint8, `packed_bytes` - 2 of them in place of the last dimension) and scales (float16, size 1).

    A number comes back within half a scale of what it was, a scale being the row's largest / (2^(bits - 1) - 1).
    """
    highest = 2 ** (bits - 1) - 1
    scale = (x.abs().amax(dim=-1, keepdim=True).float() / highest).clamp_min(_LEAST_SCALE)
    # Rounded up, so that the largest has a code of its own.
    scale = torch.nextafter(scale.half(), torch.tensor(torch.inf, dtype=torch.float16, device=x.device))
    codes = (x / scale.float()).round().clamp(-highest, highest).add(highest).to(torch.uint8)
    if bits == 8:
        return codes, scale
    a, b, c, d = F.pad(codes, (0, -codes.shape[-1] % 4)).unflatten(-1, (-1, 4)).unbind(-1)
    return torch.stack((a | (b << 6), (b >> 2) | (c << 4), (c >> 4) | (d << 2)), dim=-1).flatten(-2), scale


def unpack(codes: Tensor, scale: Tensor, bits: int, width: int) -> Tensor:
    """The `width` numbers of each row, in single precision."""
    highest = 2 ** (bits - 1) - 1
    if bits == 6:
        one, two, three = codes.unflatten(-1, (-1, 3)).unbind(-1)
        parts = (one & 63, (one >> 6) | ((two & 15) << 2), (two >> 4) | ((three & 3) << 4), three >> 2)
        codes = torch.stack(parts, dim=-1).flatten(-2)[..., :width]
    return (codes.float() - highest) * scale.float()


class QuantizedRows:
    """One tensor (..., rows, width) that grows by rows, held in codes."""

    def __init__(self, bits: int) -> None:
        self._bits, self._width, self._dtype = bits, 0, torch.float32
        self._codes: Tensor | None = None
        self._scale: Tensor | None = None

    def extend(self, new: Tensor) -> Tensor:
        """Adds rows and returns all, as the codes say them."""
        codes, scale = pack(new, self._bits)
        self._width, self._dtype = new.shape[-1], new.dtype
        if self._codes is not None and self._scale is not None:
            codes, scale = torch.cat((self._codes, codes), dim=-2), torch.cat((self._scale, scale), dim=-2)
        self._codes, self._scale = codes, scale
        return unpack(codes, scale, self._bits, self._width).to(self._dtype)

    def select(self, batch: Tensor) -> None:
        """Keeps the given batch entries (an index tensor) only."""
        if self._codes is not None and self._scale is not None:
            self._codes, self._scale = self._codes[batch], self._scale[batch]

    @property
    def rows(self) -> int:
        """How many there are."""
        return 0 if self._codes is None else self._codes.shape[-2]

    @property
    def bytes(self) -> int:
        """What codes and scales take [bytes]."""
        return sum(held.nbytes for held in (self._codes, self._scale) if held is not None)


class QuantizedKVCache:
    """As `experiments.models.attention.KVCache`, in `bits` bits. Nothing can be learned through it."""

    def __init__(self, layers: int, bits: int) -> None:
        self._held = [(QuantizedRows(bits), QuantizedRows(bits)) for _ in range(layers)]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Adds rows to a layer and returns all that it holds now, as the codes say it."""
        held_keys, held_values = self._held[layer]
        return held_keys.extend(keys), held_values.extend(values)

    def select(self, batch: Tensor) -> None:
        """Keeps the given batch entries (an index tensor) only."""
        for keys, values in self._held:
            keys.select(batch)
            values.select(batch)

    @property
    def rows(self) -> int:
        """How many rows each batch entry has."""
        return self._held[0][0].rows

    @property
    def bytes(self) -> int:
        """What the held tensors take [bytes]."""
        return sum(keys.bytes + values.bytes for keys, values in self._held)


class QuantizedHfCache(HfCache):
    """As `HfCache`, in `bits` bits."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        cast(Any, self.held).layer_class_to_replicate = partial(_hf_layer_class(), bits)

    @property
    def bytes(self) -> int:
        """What the held tensors take [bytes]."""
        return sum(int(rows.bytes) for layer in cast(Any, self.held.layers) for rows in layer.both)


@cache
def _hf_layer_class() -> type:
    from transformers.cache_utils import DynamicLayer  # late: whoever has a `Decoder` needs no transformers

    class QuantizedLayer(DynamicLayer):
        def __init__(self, bits: int) -> None:
            super().__init__()
            self.both = QuantizedRows(bits), QuantizedRows(bits)

        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            keys, values = self.both
            return keys.extend(key_states), values.extend(value_states)

        def get_seq_length(self) -> int:
            return self.both[0].rows

        def batch_select_indices(self, indices: Tensor) -> None:
            for rows in self.both:
                rows.select(indices)

    return QuantizedLayer


class WithQuantizedCache:
    """A model that is given the caches which `make` makes; else called as it is."""

    def __init__(self, model: Any, make: Callable[[], Cache]) -> None:
        self.model, self._make = model, make
        self.device: torch.device = model.device

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)

    def new_cache(self) -> Cache:
        """An empty cache."""
        return self._make()
