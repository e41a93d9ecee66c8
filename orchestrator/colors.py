"""The colour of an algorithm or a recipe wherever one is drawn: in the report's charts and in MLflow's."""

from collections.abc import Mapping
from typing import Final

ALGORITHM_COLORS: Final[Mapping[str, str]] = {
    "sft": "#1f77b4",
    "grpo": "#d95f02",
    "rejection_sft": "#17becf",
    "distill": "#2ca02c",
    "dpo": "#9467bd",
    "dapo": "#e7298a",
    "gspo": "#a6761d",
    "rloo": "#bcbd22",
    "r1_zero": "#ff7f0e",
    "r1": "#d62728",
}
"""Those that are not here get a colour from whatever draws them."""
