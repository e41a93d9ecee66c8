"""Stages that differ in one thing or another."""

from dataclasses import replace

from orchestrator.schema import Stage
from tests.unit.orchestrator.builders import stage


def of(
    algorithm: str, name: str = "main", lr: float = 1e-3, width: int = 64, steps: int = 100, task: str = "addition"
) -> Stage:
    config = {
        "algorithm": {"name": algorithm, "max_steps": steps},
        "optimizer": {"lr": lr},
        "model": {"d_model": width},
        "task": {"name": task},
    }
    return replace(stage(f"{name}@{algorithm}-{lr}-{width}-{steps}-{task}", steps=steps), config=config)
