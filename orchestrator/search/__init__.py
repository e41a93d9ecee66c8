"""Which variants a study tries next: Optuna's samplers over the space of a sweep, asked while others still run."""

from orchestrator.search.points import Known, PointState, best_point, is_search, known_points, point_keys
from orchestrator.search.samplers import SAMPLERS

SEARCHES = ("grid", *SAMPLERS)
"""What may stand in `search.name`: a grid is composed whole, when it is submitted; all others draw one by one."""

__all__ = [
    "SAMPLERS",
    "SEARCHES",
    "Known",
    "PointState",
    "best_point",
    "is_search",
    "known_points",
    "point_keys",
]
