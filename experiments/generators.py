"""The libraries' own random generators: torch's, the device's, numpy's and Python's.

Nothing of ours draws from them: our streams are generators of their own. What a library draws is nonetheless the same
in a resumed stage, and in a stage that shares its process with others.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seeds every one of them."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def state_of_all(device: torch.device) -> dict[str, Any]:
    """Their states, that of `device` too if it is a GPU, for `restore_all`."""
    return {
        "torch": torch.get_rng_state(),
        "device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": np.random.get_state(),
        "python": _packed(random.getstate()),
    }


def restore_all(state: dict[str, Any], device: torch.device) -> None:
    """Puts them where `state_of_all` found them."""
    torch.set_rng_state(state["torch"])
    if state["device"] is not None:
        torch.cuda.set_rng_state(state["device"], device)
    np.random.set_state(state["numpy"])
    random.setstate(_unpacked(state["python"]))


def _packed(state: tuple[Any, ...]) -> tuple[Any, ...]:
    """Python's state with its 625 numbers as one array: a checkpoint takes a fifth less time to write."""
    version, numbers, gauss = state
    return version, np.array(numbers, dtype=np.uint32), gauss


def _unpacked(packed: tuple[Any, ...]) -> tuple[Any, ...]:
    version, numbers, gauss = packed
    return version, tuple(numbers.tolist()), gauss


class OwnGenerators:
    """One stage's generators, seeded as in a process of its own, where several stages share a process."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device
        with self._others_kept():
            seed_all(seed)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Around what the stage does by itself: the others' generators stay where they are."""
        with self._others_kept():
            restore_all(self._state, self._device)
            yield

    @contextmanager
    def _others_kept(self) -> Iterator[None]:
        others = state_of_all(self._device)
        try:
            yield
        finally:
            self._state = state_of_all(self._device)
            restore_all(others, self._device)
