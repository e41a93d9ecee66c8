"""Onto which device. A packing policy is a pure function from a snapshot and ordered requests to placements.

A policy is a frozen dataclass whose fields are its knobs: those of `conf/packing/NAME.yaml`.
"""

from collections.abc import Callable, Mapping

from orchestrator.packing.best_fit import BestFit
from orchestrator.packing.dot_product import DotProduct
from orchestrator.packing.exclusive import Exclusive
from orchestrator.packing.first_fit import FirstFit
from orchestrator.packing.fragmentation import Fragmentation
from orchestrator.packing.frontier import Frontier
from orchestrator.packing.gpu_clustering import GpuClustering
from orchestrator.packing.gpu_packing import GpuPacking
from orchestrator.packing.optimal import Optimal
from orchestrator.packing.policy import PackingPolicy
from orchestrator.packing.random import Random

# By name; called with the policy's knobs.
PACKINGS: Mapping[str, Callable[..., PackingPolicy]] = {
    "best_fit": BestFit,
    "dot_product": DotProduct,
    "exclusive": Exclusive,
    "first_fit": FirstFit,
    "fragmentation": Fragmentation,
    "frontier": Frontier,
    "gpu_clustering": GpuClustering,
    "gpu_packing": GpuPacking,
    "optimal": Optimal,
    "random": Random,
}

__all__ = [
    "PACKINGS",
    "BestFit",
    "DotProduct",
    "Exclusive",
    "FirstFit",
    "Fragmentation",
    "Frontier",
    "GpuClustering",
    "GpuPacking",
    "Optimal",
    "PackingPolicy",
    "Random",
]
