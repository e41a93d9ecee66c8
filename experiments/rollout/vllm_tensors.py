"""What goes to vLLM and what comes back, as tensors of this project; knows no vLLM."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from experiments.batches import Prompts
from experiments.models.hf import HfModel
from experiments.rollout.batch import Rollout


def prompt_ids(prompts: Prompts) -> list[list[int]]:
    """The token ids of each prompt, without padding."""
    padding = [0] * len(prompts) if prompts.padding is None else prompts.padding.tolist()
    return [row[count:] for row, count in zip(prompts.tokens.tolist(), padding, strict=True)]


def seeds_of(noise: Tensor) -> list[int]:
    """A seed for each completion, from the first number of its noise (N, T)."""
    return (noise[:, 0].double() * 2**31).long().tolist()


def weights_by_name(model: HfModel) -> Iterator[tuple[str, Tensor]]:
    """The model's weights under the names that they have in its safetensors, from which vLLM loads them too."""
    for name, weight in model.model.named_parameters():
        yield name, weight.detach()


def to_rollout(
    ids: Sequence[Sequence[int]],
    log_probs: Sequence[Sequence[float]],
    max_tokens: int,
    pad_id: int,
    device: torch.device,
) -> Rollout:
    """Completions of their own lengths, EOS included, as a `Rollout`."""
    shape = (len(ids), max_tokens)
    tokens = torch.full(shape, pad_id)
    chosen, mask = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
    for row, (own, own_log_probs) in enumerate(zip(ids, log_probs, strict=True)):
        count = len(own)
        tokens[row, :count], mask[row, :count] = torch.tensor(own, dtype=torch.long), True
        chosen[row, :count] = torch.tensor(own_log_probs)
    return Rollout(tokens.to(device), mask.to(device), chosen.to(device))
