"""Who moves, so that free devices that lie apart lie together. A policy is a pure function from a snapshot, the first
request that found no room and the packing to a move."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from orchestrator.sharing.defragmentation.migrate import migrate
from orchestrator.sharing.defragmentation.never import never
from orchestrator.sharing.defragmentation.policy import DefragmentationPolicy, Move

# From the resolved config of the group `defragmentation` to its policy.
DEFRAGMENTATIONS: Mapping[str, Callable[[Mapping[str, Any]], DefragmentationPolicy]] = {
    "never": lambda config: never,
    "migrate": lambda config: partial(
        migrate,
        max_moves=config["max_moves"],
        min_hold_s=config["min_hold_s"],
        restart_s=config["restart_s"],
        margin=config["margin"],
    ),
}

__all__ = ["DEFRAGMENTATIONS", "DefragmentationPolicy", "Move", "migrate", "never"]
