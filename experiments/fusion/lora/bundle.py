"""A bundle whose members are adapters over one base, and a member of it as checkpoints want an engine.

What a `Bundle` calls a decoder is a `LoraStack` of one here: `fresh_member`, or `Departed.decoder` of another bundle
over the same base.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from torch import Tensor

from experiments.fusion.bundle import Bundle
from experiments.fusion.checkpoint import MemberEngine
from experiments.fusion.decoder import StackedDecoder
from experiments.fusion.lora.base import FrozenBase
from experiments.fusion.lora.engine import LoraEngine
from experiments.fusion.lora.stack import LoraSize, LoraStack, adapter_layout
from experiments.fusion.optimizer import MemberOptimizer
from experiments.models.adapter import Adapter
from experiments.models.decoder import Decoder
from experiments.tasks import Task
from orchestrator.schema.training import LoraConfig, StageConfig


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
        return self.member_of(self.base.fresh_adapter(lora, seed))

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
    """One member of a bundle. Its checkpoint is that of an adapter that trains alone, both ways."""

    def __init__(self, bundle: LoraBundle, name: str, lora: LoraConfig) -> None:
        """`lora` is the member's own."""
        super().__init__(bundle, name)
        self._loras, self._lora = bundle, lora

    def decoder(self) -> Decoder:
        """A copy of the member in its own rank, as it is alone: what it costs to keep and to ask is not the stack's."""
        adapter = self._loras.adapter(self._name)
        return cast(Decoder, LoraStack.of(self._loras.base, [adapter], adapter.rank))

    def _model_layout(self) -> dict[str, Any]:
        return adapter_layout(LoraSize(self._lora.rank, self._lora.alpha), self._loras.base.target_modules)

    def _solo_weights(self) -> OrderedDict[str, Tensor]:
        return OrderedDict(weights=self._loras.loras.solo_weights(self._place))

    def _restore(self, weights: Mapping[str, Tensor], optimizer: Mapping[str, Any]) -> None:
        self._loras.loras.load(self._place, weights["weights"], optimizer)
