"""A key/value cache whose rows are held in 8 or 6 bits.

Each row of each head has a scale of its own (float16) and one code for every number: a byte, or 6 bits, four of them
packed into three bytes. Attention gets back what the codes say, of the newest row as of the oldest, so that a token is
seen alike by all that come after it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name the whole field uses
from torch import Tensor

from experiments.models.attention import KVCache
from experiments.models.growing import GrowingRows
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

    def __init__(self, bits: int, reserved: int = 0) -> None:
        """reserved: see `GrowingRows`."""
        self._bits, self._width, self._dtype = bits, 0, torch.float32
        self._codes, self._scale = GrowingRows(reserved), GrowingRows(reserved)

    def extend(self, new: Tensor) -> Tensor:
        """Adds rows and returns all, as the codes say them."""
        codes, scale = pack(new, self._bits)
        self._width, self._dtype = new.shape[-1], new.dtype
        codes, scale = self._codes.extend(codes), self._scale.extend(scale)
        return unpack(codes, scale, self._bits, self._width).to(self._dtype)

    def select(self, batch: Tensor) -> None:
        """Keeps the given batch entries (an index tensor) only."""
        self._codes.select(batch)
        self._scale.select(batch)

    @property
    def rows(self) -> int:
        """How many there are."""
        return self._codes.rows

    @property
    def bytes(self) -> int:
        """What codes and scales take [bytes]."""
        return self._codes.bytes + self._scale.bytes


class QuantizedKVCache(KVCache):
    """In `bits` bits. Nothing can be learned through it."""

    def __init__(self, layers: int, bits: int) -> None:
        super().__init__(layers, partial(QuantizedRows, bits))


class QuantizedHfCache(HfCache):
    """As `HfCache`, in `bits` bits."""

    def __init__(self, bits: int) -> None:
        super().__init__(partial(QuantizedRows, bits))


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
