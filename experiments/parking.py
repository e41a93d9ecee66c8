"""Tensors that wait in host memory until they are needed on their device again: the same objects, bit for bit.

Host memory is pinned where there is a GPU, so that it is copied at the bus's speed; torch keeps it for the next time.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


class Parking:
    """Of one device. Where that is the host itself, what is parked is moved all the same."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._parked: list[Tensor] = []

    @torch.no_grad()
    def park(self, tensors: Iterable[Tensor]) -> None:
        """Their data moves to host memory, and what they had of a GPU, with all else that is free there, goes back to
        whoever else is on it. Those that are parked already stay."""
        parked = {id(tensor) for tensor in self._parked}
        on_gpu = self._device.type == "cuda"
        for tensor in tensors:
            if id(tensor) not in parked:
                host = torch.empty_like(tensor, device="cpu", pin_memory=on_gpu)
                tensor.data = host.copy_(tensor, non_blocking=True)
                self._parked.append(tensor)
        if on_gpu:
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()

    @torch.no_grad()
    def unpark(self) -> None:
        """All that is parked moves back."""
        for tensor in self._parked:
            tensor.data = torch.empty_like(tensor, device=self._device).copy_(tensor, non_blocking=True)
        self._parked.clear()
