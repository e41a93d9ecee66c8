"""Fused runs, and their oracle: the solo stages themselves, one after another in a child, reporting every step."""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.fusion import grpo as fused_grpo
from experiments.fusion import losses as fused_losses
from experiments.fusion.bundle import Bundle, SoloProgress
from experiments.fusion.optimizer import Moments, moments_of
from experiments.fusion.stack import StackLayout
from experiments.fusion.values import StepValues
from experiments.models.decoder import Decoder
from experiments.models.multi_token import new_decoder, read_decoder
from experiments.stages import grpo, session
from experiments.tasks import load_task
from orchestrator.schema.training import OptimizerConfig, stage_config
from tests.unit.experiments.children import run_in_child
from tests.unit.experiments.stage_runs import Result, assignment_of, run_alone, stage_data

CPU = torch.device("cpu")
STEPS = 50

# What differs between fused and solo is the order of some sums: gradients are written out in a stack, and padded to the
# longest of all members and to the most groups that one learns from.
# A series has values of any size: the KL of a policy that has run away is in the thousands.
WEIGHTS = {"atol": 2e-5, "rtol": 1e-4}
SERIES = {"atol": 1e-4, "rtol": 1e-3}
GRADIENTS = 1e-4  # of the largest of all weights
BORDER = 1e-5  # of a ratio to its clip bound

VARIED_SFT = [
    {"lr": 3e-3},
    {"lr": 6e-3, "schedule": "cosine", "warmup_steps": 5, "weight_decay": 0.1, "clip": 0.0},
    {"lr": 1e-3, "schedule": "linear", "beta1": 0.8, "clip": 0.5},
    {"lr": 1e-2, "schedule": "cosine", "beta2": 0.95, "weight_decay": 0.3, "clip": 0.1},
    {"lr": 2e-3, "eps": 1e-4, "clip": 5.0},
    {"lr": 5e-3, "warmup_steps": 20, "clip": 0.3},
    {"lr": 4e-4, "beta1": 0.5, "beta2": 0.9},
    {"lr": 8e-3, "schedule": "linear", "warmup_steps": 10, "weight_decay": 1.0},
]
VARIED_GRPO = [
    {},
    {"temperature": 0.7, "kl_weight": 0.1, "aggregation": "token"},
    {"clip_high": 0.3, "kl_weight": 0.3, "aggregation": "constant"},
    {"temperature": 1.3, "clip_low": 0.1, "advantage_scale": "none", "baseline": "leave_one_out"},
    {"temperature": 0.9, "aggregation": "token", "advantage_scale": "none", "max_sampling_rounds": 3},
    {"clip_low": 0.05, "clip_high": 0.05, "aggregation": "constant", "mask_truncated": True},
    {"kl_weight": 1.0, "importance_level": "sequence", "max_sampling_rounds": 2, "length_penalty": 0.2},
    {"temperature": 0.8, "clip_high": 0.5, "aggregation": "token", "overlong_buffer": 1, "mask_truncated": True},
]
GRPO = {"name": "grpo", "max_steps": STEPS, "prompts_per_step": 4, "group_size": 4, "updates_per_rollout": 2}
SFT = {"name": "sft", "max_steps": STEPS, "batch_size": 8}


def variant(problems: Path, algorithm: dict[str, Any], seed: int, *, clip=1.0, **knobs) -> dict[str, Any]:
    """Data of a stage; knobs of the algorithm and of the optimizer, by name."""
    of_algorithm = {name: value for name, value in knobs.items() if name in _GRPO_KNOBS}
    optimizer = {name: value for name, value in knobs.items() if name not in _GRPO_KNOBS}
    deepspeed = {"gradient_clipping": clip}
    data = stage_data(problems, {**algorithm, **of_algorithm}, seed=seed, deepspeed=deepspeed, **optimizer)
    return {**data, "evaluation": {"every_steps": 25, "timed_answers": 1}}


_GRPO_KNOBS = {
    "temperature",
    "kl_weight",
    "aggregation",
    "clip_low",
    "clip_high",
    "advantage_scale",
    "updates_per_rollout",
    "max_steps",
    "importance_level",
    "baseline",
    "max_sampling_rounds",
    "overlong_buffer",
    "mask_truncated",
    "length_penalty",
}


def variants(problems: Path, algorithm: dict[str, Any], width: int, *, calm: bool = True) -> list[dict[str, Any]]:
    """`width` variants that differ in every number that may differ; calm ones can be compared over fifty steps.

    Adam makes a step of full size out of a gradient that is rounding only, as those of GRPO often are, whose advantages
    add up to nothing; and a ratio that is within rounding of its clip bound is clipped in one of two runs only. So a
    calm run of GRPO has a larger eps, and a third of the rates.
    """
    varied = VARIED_SFT
    if algorithm["name"] == "grpo":
        varied = [{**optimizer, **grpo} for optimizer, grpo in zip(VARIED_SFT, VARIED_GRPO, strict=True)]
        if calm:
            varied = [{**knobs, "lr": knobs["lr"] * 0.3, "eps": 1e-4} for knobs in varied]
    return [variant(problems, algorithm, seed, **varied[seed]) for seed in range(width)]


def write_mixed_problems(folder: Path) -> Path:
    """Sums whose prompts are of three lengths and whose answers are of two."""
    return _write(folder / "mixed.jsonl", [(a, b) for a in range(6, 20) for b in range(3, 13)])


def write_even_problems(folder: Path) -> Path:
    """Sums whose prompts, and whose answers, are of one length: nothing is padded."""
    return _write(folder / "even.jsonl", [(a, b) for a in range(10, 24) for b in range(10)])


def _write(path: Path, pairs: list[tuple[int, int]]) -> Path:
    path.write_text("".join(json.dumps({"prompt": f"{a}+{b}=", "answer": str(a + b)}) + "\n" for a, b in pairs))
    return path


def run_solo(folder: Path, datas: list[dict[str, Any]], parent: Path, *, stop_at=-1) -> list[Result]:
    """The stages alone, one after another; folder `solo-N` holds what the N-th left. Run again, they resume."""
    assignments = [assignment_of(folder, d, parent=parent, name=f"solo-{n}") for n, d in enumerate(datas)]
    return run_in_child(_run_in_turn, assignments, stop_at)


def _run_in_turn(assignments, stop_at):
    session.REPORT_EVERY_STEPS = 1
    return [run_alone(assignment, stop_at) for assignment in assignments]


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
        results += _run_in_turn([assignment], -1)
        torch.save(list(seen), folder / f"seen-{number}.pt")
        seen.clear()
    return results


@dataclass
class FusedRun:
    """What fused members said, step by step, and their weights at their end."""

    series: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    weights: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)

    def take(self, values: dict[str, StepValues]) -> None:
        for name, value in values.items():
            self.series.setdefault(name, []).append(said(value))

    def values(self, member: str, name: str) -> list[float]:
        return [step[name] for step in self.series[member] if name in step]


def said(value: StepValues) -> dict[str, float]:
    """A step's values as a solo stage reports them: updates averaged."""
    out = {**value.step, **value.averages}
    for name in {name for update in value.updates for name in update}:
        numbers = [update[name] for update in value.updates if name in update]
        out[name] = sum(numbers) / len(numbers)
    return out


def bundle_of(
    folder: Path, datas: dict[str, dict[str, Any]], parent: Path | None, items: dict[str, list[Any]] | None = None
) -> Bundle:
    """A bundle of fresh members; `items` are what those learn of that sample it."""
    config = stage_config(next(iter(datas.values())))
    bundle = Bundle(load_task(config.task, folder / "cache"), config, CPU)
    for name, data in datas.items():
        own = None if items is None else items[name]
        bundle.put_in(name, SoloProgress(stage_config(data)), initial(data, parent), items=own)
    return bundle


def initial(data: dict[str, Any], parent: Path | None) -> Decoder:
    """As a solo session begins."""
    if parent is not None:
        return read_decoder(parent).float()
    config = stage_config(data)
    return new_decoder(config.model, 99, session.seeded_generator(config.seed, "weights"))


def advance(bundle: Bundle, run: FusedRun, steps: int) -> None:
    for _ in range(steps):
        values = bundle.step()
        run.take(values)
        for name in bundle.names:
            bundle.member(name).complete_step(values[name].rounds)


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


def run_fused(folder: Path, datas: list[dict[str, Any]], parent: Path | None) -> FusedRun:
    """All variants as one bundle, for as long as they all last; members are named by their number."""
    named = {str(number): data for number, data in enumerate(datas)}
    bundle, run = bundle_of(folder, named, parent), FusedRun()
    advance(bundle, run, datas[0]["algorithm"]["max_steps"])
    run.weights = {name: bundle.state(name).decoder.state_dict() for name in bundle.names}
    return run


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


def assert_same_trajectory(run: FusedRun, member: str, solo: Result, weights: dict[str, float] = WEIGHTS) -> None:
    """Every value of every step, and the weights at the end."""
    names = {name for step in run.series[member] for name in step}
    assert {"train/loss", "train/lr", "train/grad_norm"} <= names
    for name in sorted(names):
        mine, theirs = run.values(member, name), solo.series(name)
        torch.testing.assert_close(
            torch.tensor(mine), torch.tensor(theirs), msg=lambda text, name=name: f"{name}: {text}", **SERIES
        )
    for name, weight in run.weights[member].items():
        torch.testing.assert_close(weight, solo.weights[name], **weights)
