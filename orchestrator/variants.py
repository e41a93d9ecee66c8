"""Variants as plain data: how they are stored and sent."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from orchestrator.schema import Stage, Variant


def variant_to_data(variant: Variant) -> dict[str, Any]:
    """JSON-compatible."""
    return asdict(variant)


def variant_from_data(data: Mapping[str, Any]) -> Variant:
    """What `variant_to_data` gave, before or after JSON. Raises KeyError or TypeError for anything else."""
    stages = tuple(Stage(**stage) for stage in data["stages"])
    return Variant(**{**data, "overrides": tuple(data["overrides"]), "stages": stages})
