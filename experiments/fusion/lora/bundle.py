"""A bundle whose members are adapters over one base, and a member of it as checkpoints want an engine.

What a `Bundle` calls a decoder is a `LoraStack` of one here: `fresh_member`, or `Departed.decoder` of another bundle
over the same base.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from experiments.batches import seeded_generator
from experiments.fusion.bundle import Bundle
from experiments.fusion.checkpoint import MemberEngine
from experiments.fusion.decoder import StackedDecoder
from experiments.fusion.lora.base import FrozenBase
from experiments.fusion.lora.engine import LoraEngine
from experiments.fusion.lora.stack import LoraStack
from experiments.fusion.optimizer import MemberOptimizer
from experiments.models.adapter import Adapter, draw_adapter, load_adapter, save_adapter
from experiments.models.decoder import Decoder
from experiments.tasks import Task
from orchestrator.schema.training import LoraConfig, StageConfig

OPTIMIZER_FILE = "optimizer.pt"


class LoraBundle(Bundle):
    """A `Bundle` over one base; all that its members differ in besides is rank, alpha and the layers' weights."""

    def __init__(
        self,
        task: Task,
        config: StageConfig,
        base: FrozenBase,
        max_rank: int,
        make_engine: Callable[[LoraStack, Sequence[MemberOptimizer]], LoraEngine] = LoraEngine,
    ) -> None:
        """Empty; for adapters of ranks up to `max_rank`, and members of the fusion key of `config`."""
        self.base, self.max_rank = base, max_rank
        super().__init__(task, config, base.device, lambda stack, members: make_engine(cast(LoraStack, stack), members))

    @property
    def loras(self) -> LoraEngine:
        """The engine, as what it is here."""
        return cast(LoraEngine, self.engine)

    def fresh_member(self, lora: LoraConfig, seed: int) -> LoraStack:
        """What a member starts from: an adapter of its own seed that changes nothing yet."""
        generator = seeded_generator(seed, "weights")
        return self.member_of(draw_adapter(self.base.sites, self.base.target_modules, lora.rank, lora.alpha, generator))

    def member_of(self, adapter: Adapter) -> LoraStack:
        """What a member starts from that goes on from another's adapter."""
        return LoraStack.of(self.base, [adapter], self.max_rank)

    def adapter(self, name: str) -> Adapter:
        """A copy of a member's adapter."""
        return self.loras.adapter(self.place(name))

    def _empty_stack(self) -> StackedDecoder:
        return cast(StackedDecoder, LoraStack.of(self.base, [], self.max_rank))

    def _stack_of(self, decoders: Sequence[Decoder]) -> StackedDecoder:
        return cast(StackedDecoder, LoraStack.joined(cast(Sequence[LoraStack], decoders)))


class LoraMemberEngine(MemberEngine):
    """One member of a bundle. Its checkpoint is an adapter as peft loads it, and the state of its AdamW."""

    def __init__(self, bundle: LoraBundle, name: str, base_path: str) -> None:
        """`base_path` is where the base was loaded from: peft's name for it in the adapter's configuration."""
        super().__init__(bundle, name)
        self._loras, self._base_path = bundle, base_path

    @property
    def layout(self) -> dict[str, Any]:
        """What a checkpoint depends on; rank and alpha are the member's and are compared when it is loaded."""
        return {"model.path": self._base_path, "model.lora.target_modules": sorted(self._loras.base.target_modules)}

    def save(self, folder: Path, tag: str) -> None:
        """Adapter and optimizer state, at `folder/tag`."""
        (folder / tag).mkdir(parents=True, exist_ok=True)
        save_adapter(self._loras.adapter(self._name), self._base_path, folder / tag)
        lr = self._loras.member(self._name).learning_rate()
        torch.save(self._loras.loras.optimizer_state(self._place, lr), folder / tag / OPTIMIZER_FILE)

    def load(self, folder: Path, tag: str) -> None:
        """What `save` wrote. Hyperparameters stay those of the member.

        Raises FileNotFoundError if it cannot be read, ValueError for an adapter of another shape, naming the field.
        """
        state = torch.load(folder / tag / OPTIMIZER_FILE, weights_only=True, map_location=self.device)
        self._loras.loras.load(self._place, load_adapter(folder / tag), state)
