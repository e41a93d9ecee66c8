"""Trials with curves, for policies to judge."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from orchestrator.schema import Evaluation, Trial, TrialState, Variant
from orchestrator.stopping import STOPPINGS, StoppingPolicy
from tests.unit.orchestrator.builders import stage

CONFIG: Mapping[str, Any] = {
    "name": "successive_halving",
    "resource": "device_seconds",
    "min_resource": 1.0,
    "rung_factor": 3,
    "reduction_factor": 3,
    "grace": {},
    "grace_unit": "budget",
    "min_trials": 4,
    "confidence": 0.9,
    "finish_share": 0.0,
    "seed": 0,
    "brackets": 3,
}
BUDGET_STEPS = 90
"""A step takes a third of a device-second: a whole run 30."""

Curve = Callable[[float], float]


def policy(name: str = "successive_halving", **changes: Any) -> StoppingPolicy:
    return STOPPINGS[name]({**CONFIG, "name": name, **changes})


def evaluations(curve: Curve, until_s: float, folds: Callable[[float], tuple[float, ...]] | None = None) -> Any:
    """One per device-second, from 1 on."""
    return tuple(
        Evaluation(3.0 * s, 1000.0 * s, float(s), curve(s), folds(curve(s)) if folds else ())
        for s in range(1, int(until_s) + 1)
    )


def trial(
    number: int,
    curve: Curve = lambda s: 0.5,
    until_s: float = 3.0,
    *,
    seed: int = 0,
    lr: float | None = None,
    algorithm: str = "sft",
    dev: int = 200,
    state: TrialState = TrialState.RUNNING,
    folds: Callable[[float], tuple[float, ...]] | None = None,
) -> Trial:
    """`lr`: what settings differ in; by default every trial is a setting of its own."""
    main = stage(f"main@{number}", steps=BUDGET_STEPS)
    made = Variant(
        key=main.key,
        algorithm=algorithm,
        seed=seed,
        overrides=(f"optimizer.lr={number if lr is None else lr}", f"seed={seed}"),
        config={"task": {"split": {"dev": dev}}},
        stages=(main,),
    )
    points = evaluations(curve, until_s, folds)
    return Trial(
        trial_id=f"study-1-{number:04d}",
        study_id="study-1",
        number=number,
        variant=made,
        state=state,
        evaluations=points,
        stage_gpu_seconds=0.0,
    )


def flat(accuracy: float) -> Curve:
    return lambda s: accuracy


def applied(trials: list[Trial], verdict: Any) -> list[Trial]:
    """The trials after a Hold has taken effect."""
    return [
        replace(t, stopped=verdict.stop, state=TrialState.PAUSED) if t.trial_id == verdict.trial_id else t
        for t in trials
    ]
