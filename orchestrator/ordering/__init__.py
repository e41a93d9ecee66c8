"""Who goes next. An ordering policy is a pure function from a snapshot to its queue in the order of service."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from orchestrator.ordering.aging import with_aging
from orchestrator.ordering.fair_share import fair_share
from orchestrator.ordering.fifo import fifo
from orchestrator.ordering.policy import OrderingPolicy
from orchestrator.ordering.priority import priority
from orchestrator.ordering.shortest_first import shortest_first

# From the resolved config of the group `ordering` to its policy. Every one of them ages: see `aging`.
ORDERINGS: Mapping[str, Callable[[Mapping[str, Any]], OrderingPolicy]] = {
    "fifo": lambda config: with_aging(fifo, config["max_wait_s"]),
    "priority": lambda config: with_aging(priority, config["max_wait_s"]),
    "shortest_first": lambda config: with_aging(shortest_first, config["max_wait_s"]),
    "fair_share": lambda config: with_aging(
        partial(fair_share, half_life_s=config["half_life_s"]), config["max_wait_s"]
    ),
}

__all__ = ["ORDERINGS", "OrderingPolicy", "fair_share", "fifo", "priority", "shortest_first", "with_aging"]
