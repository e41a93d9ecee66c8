"""Hydra's own override grammar -> validated variants."""

from orchestrator.sweep.overrides import count_variants, parse_overrides
from orchestrator.sweep.points import PointComposer
from orchestrator.sweep.space import Choices, Condition, Dimension, Numbers, Point, Space
from orchestrator.sweep.study import MAX_VARIANTS, ComposedStudy, compose_base, compose_like, compose_study

__all__ = [
    "MAX_VARIANTS",
    "Choices",
    "ComposedStudy",
    "Condition",
    "Dimension",
    "Numbers",
    "Point",
    "PointComposer",
    "Space",
    "compose_base",
    "compose_like",
    "compose_study",
    "count_variants",
    "parse_overrides",
]
