"""One frozen model that any number of stacks of adapters go through.

The base stays as it is: its layers are hooked, not replaced. A hook adds the low-rank part of whichever stack is
in its forward pass, and nothing at any other time.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from experiments.batches import seeded_generator
from experiments.models.adapter import Adapter, Site, draw_adapter
from experiments.models.hf import HfModel, find_sites, load_base
from orchestrator.schema.training import HfModelConfig, LoraConfig
from orchestrator.schema.trust import code_is_trusted


class LowRank(NamedTuple):
    """A site's adapters: a (members, rank, in), b (members, out, rank), scales (members, 1, 1)."""

    a: Tensor
    b: Tensor
    scales: Tensor


@dataclass(frozen=True, slots=True)
class _Pass:
    """A forward pass under way."""

    batch: int
    adapters: Mapping[str, LowRank]


class FrozenBase:
    """A causal language model of which no weight is trained.

    No module: a stack over it does not own its weights, and whoever asks a stack for parameters gets the adapters only.
    """

    def __init__(self, model: nn.Module, target_modules: Sequence[str], path: str = "") -> None:
        """Freezes `model`, which is that at `path`. Raises ValueError for targets that it lacks, see `find_sites`."""
        self.path = path
        self.target_modules = tuple(target_modules)
        self.sites = find_sites(model, target_modules)
        self.model = HfModel(model.requires_grad_(False))
        self._under_way: _Pass | None = None
        modules = dict(model.named_modules())
        for site in self.sites:
            modules[site.name].register_forward_hook(self._hook(site))

    @classmethod
    def load(cls, config: HfModelConfig, device: torch.device) -> "FrozenBase":
        """The model that a stage's config names. Raises what `load_base` and `find_sites` do."""
        folder, dtype = Path(config.path), getattr(torch, config.dtype)
        model = load_base(folder, device, dtype, config.attention, run_code=code_is_trusted(folder))
        base = cls(model, config.lora.target_modules, config.path)
        if config.gradient_checkpointing:
            base.model.recompute_layers(base._again)
        return base

    def fresh_adapter(self, lora: LoraConfig, seed: int) -> Adapter:
        """An adapter of its own seed that changes nothing yet."""
        generator = seeded_generator(seed, "weights")
        return draw_adapter(self.sites, self.target_modules, lora.rank, lora.alpha, generator)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @contextmanager
    def adapted(self, batch: int, adapters: Mapping[str, LowRank]) -> Iterator[HfModel]:
        """The model with adapters, by the names of sites, for one forward pass over `batch` sequences.

        These are members x sequences of one member, one member's after the other's.
        """
        assert self._under_way is None, "a forward pass within a forward pass"
        self._under_way = _Pass(batch, adapters)
        try:
            yield self.model
        finally:
            self._under_way = None

    def _again(self) -> AbstractContextManager[None]:
        """Around a layer that is computed again in the backward pass, when the pass under way now is long over."""
        return self._resumed(self._under_way)

    @contextmanager
    def _resumed(self, under_way: _Pass | None) -> Iterator[None]:
        now, self._under_way = self._under_way, under_way
        try:
            yield
        finally:
            self._under_way = now

    def _hook(self, site: Site) -> Any:
        def add_low_rank(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if self._under_way is None:
                return None
            x = inputs[0]
            if x.dim() != 3 or x.shape[0] != self._under_way.batch:
                raise ValueError(
                    f"{site.name} gets {tuple(x.shape)} of a batch of {self._under_way.batch}: which member a row is "
                    "of can't be told; leave this layer out of model.lora.target_modules"
                )
            return (output + low_rank(x, self._under_way.adapters[site.name])).to(output.dtype)

        return add_low_rank


def low_rank(x: Tensor, adapters: LowRank) -> Tensor:
    """scale B A x: (members x batch, rows, out) of x (members x batch, rows, in), in the precision of the adapters."""
    flat = x.reshape(adapters.a.shape[0], -1, x.shape[-1]).to(adapters.a.dtype)
    inner = torch.bmm(flat, adapters.a.transpose(1, 2)) * adapters.scales.to(adapters.a.dtype)
    return torch.bmm(inner, adapters.b.transpose(1, 2)).view(*x.shape[:-1], -1)
