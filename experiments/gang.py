"""What the processes of one gang have to agree on. Torch only."""

import torch.distributed as dist
from torch import Tensor


def sum_over_processes(values: Tensor) -> Tensor:
    """Element-wise sum over the gang, in place; nothing to do for one process."""
    if dist.get_world_size() > 1:
        dist.all_reduce(values)
    return values


def meet() -> None:
    """Returns once every process is here. One that is alone doesn't go through the library's threads: where they have
    no core of their own it would wait for them, for a millisecond."""
    if dist.get_world_size() > 1:
        dist.barrier()
