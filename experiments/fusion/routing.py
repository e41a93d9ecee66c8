"""How the routed experts of all members are kept busy: `experiments.models.moe`, with the members in front."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from experiments.models.decoder import Decoder
from experiments.models.moe import Routing, auxiliary_loss, load_of, moved
from orchestrator.schema.training import Balancing, ModelConfig


def bias_steps_of(decoder: Decoder) -> Tensor:
    """One member's `bias_steps` (layers, experts)."""
    return torch.stack([experts.bias_steps for experts in decoder.experts])


class StackedRouting(nn.Module):
    """`bias_steps` (M, layers, experts) are those of each member's `MixtureOfExperts`, in the order of its modules.

    Loads and auxiliary losses come of forward passes with gradients, and are taken by whoever steps the optimizer.
    """

    bias_steps: Tensor

    def __init__(self, config: ModelConfig, bias_steps: Tensor) -> None:
        super().__init__()
        self._config = config
        self.register_buffer("bias_steps", bias_steps, persistent=False)
        self.clear()

    def clear(self) -> None:
        """Forgets what forward passes left."""
        self._loads: dict[int, Tensor] = {}
        self._auxiliary: dict[int, Tensor] = {}

    def bias(self, layer: int) -> Tensor:
        """What is added where a layer's experts are selected, (M, 1, experts)."""
        return self._config.bias_rate * self.bias_steps[:, layer, None]

    def note(self, layer: int, routing: Routing, counted: Tensor) -> None:
        """Keeps a layer's load and auxiliary loss of a forward pass; counted: (M, rows)."""
        load = load_of(routing, counted)
        self._loads[layer] = self._loads[layer] + load if layer in self._loads else load
        if self._config.balancing == Balancing.auxiliary:
            self._auxiliary[layer] = auxiliary_loss(routing, counted)

    def take_auxiliary_loss(self) -> Tensor | None:
        """The weighted auxiliary loss of each member in the last forward pass, (M,), once."""
        losses, self._auxiliary = list(self._auxiliary.values()), {}
        return self._config.auxiliary_weight * torch.stack(losses).sum(dim=0) if losses else None

    def append(self, bias_steps: Tensor) -> None:
        """Adds a member's (layers, experts) at the end."""
        self.bias_steps = torch.cat((self.bias_steps, bias_steps[None].to(self.bias_steps.device)))

    @torch.no_grad()
    def balance(self, active: Sequence[bool] | None = None) -> None:
        """After a step of the members that are `active`: moves their biases against the load since the step before."""
        if self._loads and self._config.balancing == Balancing.bias:
            idle = torch.zeros_like(self.bias_steps[:, 0])  # of a module that nothing was learned of
            loads = [self._loads.get(layer, idle) for layer in range(self.bias_steps.shape[1])]
            steps = moved(self.bias_steps, torch.stack(loads, dim=1))
            if active is not None and not all(active):
                chosen = torch.tensor(active, device=steps.device)[:, None, None]
                steps = torch.where(chosen, steps, self.bias_steps)
            self.bias_steps = steps
        self.clear()
