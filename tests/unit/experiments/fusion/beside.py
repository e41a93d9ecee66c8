"""Fused = solo, update by update: each begins where the solo stage stood, however far rounding would have led then."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.fusion import grpo as fused_grpo
from experiments.fusion import losses as fused_losses
from experiments.fusion.optimizer import Moments, moments_of
from experiments.fusion.stack import StackLayout
from experiments.stages import grpo, session
from orchestrator.schema.training import OptimizerConfig, stage_config
from tests.unit.experiments.children import run_in_child
from tests.unit.experiments.fusion.fused_runs import (
    CPU,
    SERIES,
    WEIGHTS,
    FusedRun,
    advance,
    bundle_of,
    run_in_turn,
)
from tests.unit.experiments.stage_runs import Result, assignment_of

GRADIENTS = 1e-3  # of the largest of all weights
BORDER = 1e-5  # of a ratio to its clip bound


@dataclass(frozen=True)
class Stood:
    """Where a solo stage stood before one of its steps: its weights, its optimizer's state dict, and where it stood
    before each further update of that step."""

    weights: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    between: list["Stood"] = field(default_factory=list)


def run_solo_seen(folder: Path, datas: list[dict[str, Any]], parent: Path) -> list[tuple[Result, list[Stood]]]:
    """`run_solo`, and where each stage stood before each update of each of its steps, and at its end."""
    assignments = [assignment_of(folder, d, parent=parent, name=f"solo-{n}") for n, d in enumerate(datas)]
    results = run_in_child(_run_in_turn_seen, assignments, folder)
    return [(r, torch.load(folder / f"seen-{n}.pt", weights_only=False)) for n, r in enumerate(results)]


def _run_in_turn_seen(assignments, folder):
    """Leaves what it saw in files: a tensor that is sent between processes takes an open file."""
    seen: list[Stood] = []
    updates = 0
    evaluate_if_due, update = session.Session.evaluate_if_due, grpo.update

    def noted(engine) -> Stood:
        weights = {name: weight.detach().clone() for name, weight in engine.decoder().state_dict().items()}
        return Stood(weights, copy.deepcopy(engine._engine.optimizer.state_dict()))

    def begin(self):  # what a stage does first at each step boundary, the last one included
        nonlocal updates
        updates = 0
        seen.append(noted(self.engine))
        evaluate_if_due(self)

    def seen_update(engine, *args):
        nonlocal updates
        if updates:
            seen[-1].between.append(noted(engine))
        updates += 1
        return update(engine, *args)

    session.Session.evaluate_if_due, grpo.update = begin, seen_update
    results = []
    for number, assignment in enumerate(assignments):
        results += run_in_turn([assignment], -1)
        torch.save(list(seen), folder / f"seen-{number}.pt")
        seen.clear()
    return results


@dataclass(frozen=True)
class Standing:
    """Where a member is: its weights, a row (N,), and its optimizer's moments."""

    weights: torch.Tensor
    moments: Moments


@dataclass
class StepBeside:
    """One step of a member that began each update where its solo stage did: what it said of the step, and where each
    update led it and the solo stage (of a step without updates: where they were).

    on_the_border: a ratio came within rounding of its clip bound, where one of two runs clips and the other does not.
    """

    said: dict[str, float]
    led: list[tuple[Standing, Standing]]
    on_the_border: bool


def run_fused_beside(
    folder: Path,
    datas: list[dict[str, Any]],
    parent: Path,
    seen: list[list[Stood]],
    items: dict[str, list[Any]] | None = None,
) -> Iterator[list[StepBeside]]:
    """All variants as one bundle, step by step, each update from where the solo stages stood; one entry a member."""
    names = [str(number) for number in range(len(datas))]
    bundle = bundle_of(folder, dict(zip(names, datas, strict=True)), parent, items)
    layout, update, surrogate = bundle.engine.stack.layout, fused_grpo.update, fused_losses.clipped_surrogate
    step = updates = 0
    led: list[list[tuple[Standing, Standing]]] = []
    on_the_border = [False] * len(names)

    def stand(number: int, stood: Stood) -> None:
        bundle.engine.restore(number, *_standing(stood, layout))

    def take(number: int, stood: Stood) -> None:
        mine = Standing(bundle.engine.stack.weights.detach()[number].clone(), bundle.engine.moments(number))
        led[number].append((mine, Standing(*_standing(stood, layout))))

    def beside_update(*args: Any, **kwargs: Any) -> list[dict[str, float]]:
        nonlocal updates
        for number, stood in enumerate(seen):
            if 0 < updates <= len(stood[step].between):
                take(number, stood[step].between[updates - 1])
                stand(number, stood[step].between[updates - 1])
        updates += 1
        return update(*args, **kwargs)

    def watched_surrogate(log_probs, old, advantages, mask, lowest, highest, by_sequence):
        per_token, ratio = surrogate(log_probs, old, advantages, mask, lowest, highest, by_sequence)
        near = ((ratio - lowest).abs() < BORDER) | ((ratio - highest).abs() < BORDER)
        for number, some in enumerate((near & mask).view(len(names), -1).any(dim=1).tolist()):
            on_the_border[number] |= some
        return per_token, ratio

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused_grpo, "update", beside_update)
        patch.setattr(fused_losses, "clipped_surrogate", watched_surrogate)
        for step in range(datas[0]["algorithm"]["max_steps"]):
            updates, run, led = 0, FusedRun(), [[] for _ in names]
            on_the_border[:] = [False] * len(names)
            for number, stood in enumerate(seen):
                stand(number, stood[step])
            advance(bundle, run, 1)
            for number, stood in enumerate(seen):
                take(number, stood[step + 1])
            yield [StepBeside(run.series[name][0], led[n], on_the_border[n]) for n, name in enumerate(names)]


def _standing(stood: Stood, layout: StackLayout) -> tuple[torch.Tensor, Moments]:
    return layout.pack(stood.weights), moments_of(stood.optimizer, layout, CPU)


def compare_every_step(folder: Path, datas: list[dict[str, Any]], parent: Path) -> None:
    """Members of one stack against their solo stages, update by update."""
    solo, compared = run_solo_seen(folder, datas, parent), 0
    for step, members in enumerate(run_fused_beside(folder, datas, parent, [stood for _, stood in solo])):
        for number, (mine, (result, _)) in enumerate(zip(members, solo, strict=True)):
            _, metrics, _ = next(r for r in result.reports if r[0] == step + 1 and "train/lr" in r[1])
            if not mine.on_the_border:
                assert_same_step(mine.said, metrics, f"member {number}, step {step}")
                assert_same_updates(mine.led, datas[number], metrics["train/lr"], f"member {number}, step {step}")
                compared += 1
    assert compared >= 0.95 * len(datas) * datas[0]["algorithm"]["max_steps"]


def assert_same_step(mine: dict[str, float], theirs: dict[str, float], where: str) -> None:
    """Every value that a fused member said of one step, as the solo stage reports it."""
    assert {"train/lr"} <= mine.keys()
    for name, value in mine.items():
        torch.testing.assert_close(
            value, theirs[name], msg=lambda text, name=name: f"{where}, {name}: {text}", **SERIES
        )


def assert_same_updates(led: list[tuple[Standing, Standing]], data: dict[str, Any], lr: float, where: str) -> None:
    """Each update of a step: the same gradient, by the moments that it leaves, and every weight where AdamW puts it.

    A gradient's rounding is that of its largest parts: those of a policy add up to nothing in most weights. What Adam
    makes of it there, up to a full step either way, is known from the moments (arXiv:1711.05101, algorithm 2).
    """
    optimizer = stage_config(data).optimizer
    for update, (mine, theirs) in enumerate(led):
        here = f"{where}, update {update}"
        assert mine.moments.steps == theirs.moments.steps, here
        for name in ("exp_avg", "exp_avg_sq"):
            expected = getattr(theirs.moments, name)
            off, largest = (getattr(mine.moments, name) - expected).abs().max(), expected.abs().max()
            assert off <= GRADIENTS * largest, f"{here}: {name} is off by {off:.1e}, the largest is {largest:.1e}"
        allowed = WEIGHTS["atol"] + WEIGHTS["rtol"] * theirs.weights.abs()
        allowed += lr * (_adam_step(mine.moments, optimizer) - _adam_step(theirs.moments, optimizer)).abs()
        beyond = ((mine.weights - theirs.weights).abs() - allowed).max()
        assert beyond <= 0.0, f"{here}: a weight is off by {beyond:.1e} more than its moments explain"


def _adam_step(moments: Moments, optimizer: OptimizerConfig) -> torch.Tensor:
    """What Adam subtracts at a rate of one, without weight decay."""
    count = max(1, moments.steps)
    first = moments.exp_avg.double() / (1.0 - optimizer.beta1**count)
    second = moments.exp_avg_sq.double() / (1.0 - optimizer.beta2**count)
    return first / (second.sqrt() + optimizer.eps)
