"""A feed-forward of experts: shared ones that every token has, and routed ones of which it has the best few.

DeepSeekMoE (arXiv:2401.06066, eq. 9 to 11) with the gates of DeepSeek-V3 (arXiv:2412.19437, eq. 12 to 16): the affinity
of a token to an expert is a sigmoid, the gates are those of the selected experts over their sum, and a bias is added
where the best are selected, and nowhere else. Every expert is a SwiGLU of width `d_expert`.

Either the chosen experts alone are computed (`routed.py`), or all of them for all tokens, as one SwiGLU whose hidden
values are scaled by the gates: `chosen_alone_pay` says which, by how much there is to be left out. On a device that
runs beside the host it is always the second: no shape depends on the data, so the host never waits.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the name the whole field uses
from torch import Tensor, nn

from experiments.models.routed import chosen_alone_pay, chosen_experts
from orchestrator.schema.training import Balancing, ModelConfig


class Routing(NamedTuple):
    """affinities, gates: (..., rows, experts); gates are zero where an expert is not selected and add up to 1. chosen:
    (..., rows, experts_per_token), who is selected."""

    affinities: Tensor
    gates: Tensor
    chosen: Tensor


def route(scores: Tensor, bias: Tensor, experts_per_token: int) -> Routing:
    """Who computes what, in fp32; scores (..., rows, experts), bias to be added to them or to a broadcast of them.

    The gradient goes through the gates; the bias has none.
    """
    affinities = scores.float().sigmoid()
    best = (affinities.detach() + bias).topk(experts_per_token, dim=-1).indices
    kept = torch.zeros_like(affinities).scatter(-1, best, 1.0) * affinities
    return Routing(affinities, kept / kept.sum(dim=-1, keepdim=True), best)


def gated(hidden: Tensor, gates: Tensor, shared_experts: int) -> Tensor:
    """Hidden values (..., rows, experts x d_expert), the shared experts' first, each times its expert's gate."""
    weights = F.pad(gates, (shared_experts, 0), value=1.0).to(hidden.dtype)
    return (hidden.unflatten(-1, (weights.shape[-1], -1)) * weights[..., None]).flatten(-2)


def load_of(routing: Routing, counted: Tensor) -> Tensor:
    """How many of the rows that are `counted` (..., rows) each expert was selected for, (..., experts)."""
    return ((routing.gates.detach() > 0) & counted[..., None]).sum(dim=-2)


def auxiliary_loss(routing: Routing, counted: Tensor) -> Tensor:
    """N sum_i f_i P_i, (...): 1 when all of N experts are equally busy.

    f_i: the part of all selections that fell on expert i; P_i: the mean share of its affinity, over the rows that are
    `counted` (Switch, arXiv:2101.03961, eq. 4 to 6, with selections in place of tokens).
    """
    load = load_of(routing, counted).float()
    fractions = load / load.sum(dim=-1, keepdim=True).clamp(min=1)
    shares = routing.affinities / routing.affinities.sum(dim=-1, keepdim=True)
    mean = (shares * counted[..., None]).sum(dim=-2) / counted.sum(dim=-1, keepdim=True).clamp(min=1)
    return load.shape[-1] * (fractions * mean).sum(dim=-1)


def moved(bias_steps: Tensor, load: Tensor) -> Tensor:
    """Biases, in steps, after a step with this load (both (..., experts)): one down for who was busier than the mean,
    one up for who was less (arXiv:2412.19437, section 2.1.2)."""
    load = load.float()
    return bias_steps + (load.mean(dim=-1, keepdim=True) - load).sign().to(bias_steps.dtype)


class MixtureOfExperts(nn.Module):
    """The state of its balance: `bias_steps` (experts,), whole numbers times `bias_rate`, so that a cast of the model
    to bf16 rounds none away. `load` (experts,) and `auxiliary` come of forward passes with gradients, and are taken by
    whoever steps the optimizer."""

    bias_steps: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self._config = config
        width = (config.shared_experts + config.experts) * config.d_expert
        self.router = nn.Linear(config.d_model, config.experts, bias=False)
        self.gate_up = nn.Linear(config.d_model, 2 * width, bias=False)
        self.down = nn.Linear(width, config.d_model, bias=False)
        self.register_buffer("bias_steps", torch.zeros(config.experts, dtype=torch.int64))
        self.load: Tensor | None = None
        self.auxiliary: Tensor | None = None

    def forward(self, x: Tensor, counted: Tensor | None = None) -> Tensor:
        """counted: (batch, rows), whether a row's routing counts for the balance; None: that of all."""
        config = self._config
        routing = route(self.router(x), config.bias_rate * self.bias_steps, config.experts_per_token)
        if torch.is_grad_enabled():
            self._note(routing, counted)
        rows = x.shape[:-1].numel()
        if chosen_alone_pay(config, rows, x.device, learning=torch.is_grad_enabled()):
            flat, gates, chosen = (values.flatten(0, -2) for values in (x, routing.gates, routing.chosen))
            gate_up, down = (layer.weight.to(x.dtype) for layer in (self.gate_up, self.down))
            return chosen_experts(flat, gates, chosen, gate_up, down, config=config).view_as(x)
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(gated(F.silu(gate) * up, routing.gates, config.shared_experts))

    def take_auxiliary_loss(self) -> Tensor | None:
        """The weighted auxiliary loss of the last forward pass, once; None where the bias balances."""
        auxiliary, self.auxiliary = self.auxiliary, None
        return None if auxiliary is None else self._config.auxiliary_weight * auxiliary

    def take_load(self) -> Tensor:
        """The load (experts,) of all forward passes since it was last taken."""
        load, self.load = self.load, None
        return torch.zeros_like(self.bias_steps) if load is None else load

    @torch.no_grad()
    def balance(self, load: Tensor) -> None:
        """Moves the biases, if it is them that balance, against the load (experts,) of a step."""
        if self._config.balancing == Balancing.bias:
            self.bias_steps.copy_(moved(self.bias_steps, load))

    def _note(self, routing: Routing, counted: Tensor | None) -> None:
        flat = Routing(*(values.flatten(0, -2) for values in routing))
        rows = flat.gates.new_ones(flat.gates.shape[0], dtype=torch.bool) if counted is None else counted.flatten()
        load = load_of(flat, rows)
        self.load = load if self.load is None else self.load + load
        if self._config.balancing == Balancing.auxiliary:
            self.auxiliary = auxiliary_loss(flat, rows)
