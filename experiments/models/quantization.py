"""Weights in 8 or 4 bits: after training, and while training as if they were.

Symmetric and weight-only. `int8` has a scale for each output channel, `int4` one for each group of `INT4_GROUP` inputs,
two codes in a byte. Linear layers are quantized; embeddings (a tied head with them), routers, norms and biases stay as
they are. Activations are never quantized: a layer turns its codes back into numbers where it computes, so what it saves
is memory.

Own code and not torchao's (0.18), whose int4 runs on no CPU without a further package (`mslk`), and whose import takes
longer than the stage. A test holds int8 against torchao's where that is installed.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812 - the name the whole field uses
from torch import Tensor, nn

from orchestrator.schema.training import Weights

INT4_GROUP = 32
_HIGHEST = {Weights.int8: 127, Weights.int4: 7}


def encode(x: Tensor, highest: int) -> tuple[Tensor, Tensor]:
    """Whole numbers in [-highest, highest] (int8) and their scale, one for the last dimension (kept, size 1), so that
    codes x scale is within half a scale of `x`."""
    scale = (x.abs().amax(dim=-1, keepdim=True) / highest).clamp_min(torch.finfo(x.dtype).tiny)
    return (x / scale).round().clamp(-highest, highest).to(torch.int8), scale


def fake_quantized(weight: Tensor, weights: Weights) -> Tensor:
    """`weight` (..., out, in) as its codes will say it; to the gradient it is `weight` itself (straight-through,
    arXiv:1308.3432). Codes are made row by row, element by element: the same bits however many weights are in front."""
    return weight + (_decoded(*_encoded(weight.detach(), weights), weight.shape[-1], weights) - weight).detach()


class QuantizedLinear(nn.Linear):
    """A linear layer that holds codes and scales in place of its weight. Made by `quantize` of a trained one."""

    codes: Tensor
    scale: Tensor
    weights: Weights

    def hold(self, weights: Weights) -> None:
        """Puts codes in place of the weight."""
        codes, scale = _encoded(_learned(self).detach(), weights)
        del self._parameters["weight"]
        self.weights = weights
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """What the codes say, (out_features, in_features), for whoever multiplies by it in another way."""
        return _decoded(self.codes, self.scale, self.in_features, self.weights)

    def forward(self, x: Tensor) -> Tensor:
        if self.weights == Weights.int8:  # one scale a channel can wait until after the product
            y = F.linear(x, self.codes.to(x.dtype)) * self.scale.to(x.dtype).squeeze(-1)
            return y if self.bias is None else y + self.bias
        return F.linear(x, self.weight.to(x.dtype), self.bias)


class FakeQuantizedLinear(nn.Linear):
    """A linear layer that learns a weight, and shows it to all that compute with it as if it were quantized."""

    weights: Weights

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """What the codes would say of the parameter of this name."""
        return fake_quantized(_learned(self), self.weights)


def quantize(model: nn.Module, weights: Weights) -> None:
    """Quantizes the linear layers of `model` in place; hooks on them stay. `none` changes nothing."""
    for _, layer in _linear_layers(model) if weights != Weights.none else ():
        layer.__class__ = QuantizedLinear
        cast_layer: Any = layer
        cast_layer.hold(weights)


def fake_quantize(model: nn.Module, weights: Weights) -> None:
    """From now on the linear layers of `model` learn as quantized ones. Names of parameters stay. `none` changes
    nothing."""
    for _, layer in _linear_layers(model) if weights != Weights.none else ():
        layer.__class__ = FakeQuantizedLinear
        cast_layer: Any = layer
        cast_layer.weights = weights


def quantized_weights(model: nn.Module) -> frozenset[str]:
    """Names of the weights of `model` that `quantize` and `fake_quantize` round."""
    return frozenset(f"{name}.weight" for name, _ in _linear_layers(model))


def _linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    for name, module in list(model.named_modules()):
        if type(module) in (nn.Linear, FakeQuantizedLinear) and not name.endswith("router"):
            yield name, cast(nn.Linear, module)


def _learned(layer: nn.Linear) -> Tensor:
    return cast(Tensor, layer._parameters["weight"])


def _encoded(weight: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """int8: codes and scale as `encode` gives them. int4: bytes (..., out, groups, group / 2) and scales (..., out,
    groups, 1); inputs are padded with zeros to whole groups."""
    if weights == Weights.int8:
        return encode(weight, _HIGHEST[weights])
    grouped = F.pad(weight, (0, -weight.shape[-1] % INT4_GROUP)).unflatten(-1, (-1, INT4_GROUP))
    codes, scale = encode(grouped, _HIGHEST[weights])
    low, high = (codes + 8).to(torch.uint8).chunk(2, dim=-1)
    return low | (high << 4), scale


def _decoded(codes: Tensor, scale: Tensor, in_features: int, weights: Weights) -> Tensor:
    if weights == Weights.int8:
        return codes.to(scale.dtype) * scale
    halves = torch.cat((codes & 0xF, codes >> 4), dim=-1)
    return ((halves.to(scale.dtype) - 8) * scale).flatten(-2)[..., :in_features]
