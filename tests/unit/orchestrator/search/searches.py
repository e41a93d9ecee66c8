"""Studies that are searched, on a simulated cluster: real configs, stages whose outcome is a known function."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from cluster.simulated import Script
from orchestrator.events import Launch, RecordStudy
from orchestrator.schema import Command, CommandKind, Outcome, Study, Trial
from orchestrator.sweep import compose_study
from tests.unit.orchestrator.builders import study
from tests.unit.orchestrator.rig import Rig

LR = "optimizer.lr=tag(log,interval(1e-5,1e-1))"
BASE = ("recipe=from_scratch", "cluster.memory_per_trial_gib=1")


def peak(config: Mapping[str, Any]) -> float:
    """One at lr 1e-3, falling with the decades from there, and 0.2 lower for grpo."""
    decades = abs(math.log10(config["optimizer"]["lr"]) + 3.0)
    return 1.0 - 0.3 * decades - (0.2 if config["algorithm"]["name"] == "grpo" else 0.0)


def scripted(
    value: Callable[[Mapping[str, Any]], float] = peak,
    duration_s: Callable[[Launch], float] = lambda launch: 10.0,
    raises: Callable[[Launch], bool] = lambda launch: False,
) -> Callable[[Launch], Script]:
    def script(launch: Launch) -> Script:
        return Script(
            duration_s=duration_s(launch),
            outcome=Outcome(metrics={"dev_accuracy": value(launch.stage.config)}),
            raises="boom" if raises(launch) else "",
        )

    return script


def searched(*overrides: str, study_id: str = "study-1", at: float = 0.0) -> Study:
    given = (*BASE, *overrides)
    composed = compose_study(given)
    return replace(study(study_id, at), sweep=composed.sweep, config=composed.config, overrides=given, device_kind=None)


def submit(rig: Rig, *overrides: str, study_id: str = "study-1") -> None:
    at = rig.cluster.now()
    made = searched(*overrides, study_id=study_id, at=at)
    command = Command(command_id=0, at=at, author="me", kind=CommandKind.SUBMIT, target=study_id)
    rig.store.submit(command, RecordStudy(study=made))


def lr_of(trial: Trial) -> float:
    return float(trial.variant.config["optimizer"]["lr"])
