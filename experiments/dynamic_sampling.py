"""DAPO's dynamic sampling (arXiv:2503.14476, eq. 11): sample on until enough groups have something to teach.

A group teaches if its rewards differ. A *round* samples a step's number of prompts; the first groups with spread, in
the order of the data, fill the batch. What is beyond it, and what has no spread, is left out.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the name the whole field uses
from torch import Tensor

from experiments.batches import Prompts
from experiments.gang import sum_over_processes
from experiments.rollout import Rollout


def has_spread(rewards: Tensor) -> Tensor:
    """Which groups' rewards (P, G) differ, (P,)."""
    return rewards.amax(dim=1) != rewards.amin(dim=1)


def first_of_gang(spread: Tensor, mine: slice, count: int, wanted: int) -> tuple[Tensor, int]:
    """Which of this process's groups are among the first `wanted` with spread of the gang's, and how many are in all.

    A gang chooses what one process would. Collective. spread: (groups of `mine`,), out of `count` groups of all.
    """
    everybody = torch.zeros(count, dtype=torch.long, device=spread.device)
    everybody[mine] = spread.long()
    everybody = sum_over_processes(everybody)
    chosen = first(everybody.bool(), wanted)
    return chosen[mine], int(chosen.sum())


def first(spread: Tensor, wanted: Tensor | int) -> Tensor:
    """The first `wanted` that are True along the last dimension."""
    return spread & (spread.long().cumsum(dim=-1) <= wanted)


def joined_prompts(parts: Sequence[Prompts], pad_id: int) -> Prompts:
    """The prompts of all parts, padded on the left to the longest."""
    if len(parts) == 1:
        return parts[0]
    longest = max(part.tokens.shape[1] for part in parts)
    missing = [longest - part.tokens.shape[1] for part in parts]
    tokens = [F.pad(part.tokens, (more, 0), value=pad_id) for part, more in zip(parts, missing, strict=True)]
    padding = [
        more + (torch.zeros(len(part), dtype=torch.long, device=part.tokens.device) if own is None else own)
        for part, own, more in zip(parts, (part.padding for part in parts), missing, strict=True)
    ]
    whole = torch.cat(padding)
    return Prompts(torch.cat(tokens), whole if bool(whole.any()) else None)


def joined_rollouts(parts: Sequence[Rollout]) -> Rollout:
    """The completions of all parts; of one length, as one task's are."""
    if len(parts) == 1:
        return parts[0]
    return Rollout(
        tokens=torch.cat([part.tokens for part in parts]),
        mask=torch.cat([part.mask for part in parts]),
        log_probs=torch.cat([part.log_probs for part in parts]),
    )
