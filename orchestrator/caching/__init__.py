"""What may be removed from the artifacts folder, and when: see README.md."""

from orchestrator.caching.collecting import Collected, collect, output_cache
from orchestrator.caching.policy import Bounds, InUse, choose

__all__ = ["Bounds", "Collected", "InUse", "choose", "collect", "output_cache"]
